// Rotates the heads of each row: one invocation for a pair of numbers, or one that stays as it is
{% include "common/bindings.wgsl" %}
{% include "common/rope.wgsl" %}
{% set pairs = n_dims // 2 %}
{% set each = head_dim - pairs %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= {{ heads * each }}u) { return; }
  let head = id.x / {{ each }}u * {{ head_dim }}u;
  let from_x = id.y * {{ x_pitch }}u + {{ x_first }}u + head;
  let to_y = id.y * {{ y_pitch }}u + {{ y_first }}u + head;
  let i = id.x % {{ each }}u;
  if (i < {{ pairs }}u) {
    let p = rope_pair(i);
    let turn = rope_turn(batch[{{ io.n_past }}u] + id.y, i);
    let turned = rotate(vec2<f32>({{ x }}[from_x + p.x], {{ x }}[from_x + p.y]), turn);
    y[to_y + p.x] = turned.x;
    y[to_y + p.y] = turned.y;
  } else {
    let rest = rope_rest(i - {{ pairs }}u);
    y[to_y + rest] = {{ x }}[from_x + rest];
  }
}
