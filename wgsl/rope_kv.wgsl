// For each token and head of qkv: rotates q in place, writes the rotated k and v to the layer's cache as f16.
// One workgroup a token and head; heads in the order q, k, v.
{% include "common/bindings.wgsl" %}
{% include "common/rope.wgsl" %}
const D = {{ head_dim }}u;
var<workgroup> head: array<f32, {{ head_dim }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
  let h = group.x;
  let position = batch[{{ io.n_past }}u] + t;
  let base = t * {{ (n_head + 2 * n_head_kv) * head_dim }}u + h * D;
  for (var i = lane; i < D; i += {{ workgroup }}u) { head[i] = qkv[base + i]; }
  workgroupBarrier();
  if (h < {{ n_head + n_head_kv }}u) {
    for (var i = lane; i < {{ n_dims // 2 }}u; i += {{ workgroup }}u) {
      let p = rope_pair(i);
      let r = rotate(vec2<f32>(head[p.x], head[p.y]), rope_turn(position, i));
      head[p.x] = r.x;
      head[p.y] = r.y;
    }
  }
  workgroupBarrier();
  if (h < {{ n_head }}u) {
    for (var i = lane; i < D; i += {{ workgroup }}u) { qkv[base + i] = head[i]; }
  } else {
    for (var i = lane; i < {{ head_dim // 2 }}u; i += {{ workgroup }}u) {
      let word = pack2x16float(vec2<f32>(head[2u * i], head[2u * i + 1u]));
      if (h < {{ n_head + n_head_kv }}u) {
        k_cache[((h - {{ n_head }}u) * {{ n_ctx }}u + position) * {{ head_dim // 2 }}u + i] = word;
      } else {
        v_cache[((h - {{ n_head + n_head_kv }}u) * {{ n_ctx }}u + position) * {{ head_dim // 2 }}u + i] = word;
      }
    }
  }
}
