// y = {{ {"mean": "the mean of each text's tokens", "cls": "each text's first token", "last": "each text's last token"}[kind] }}: one invocation a number
{% include "common/bindings.wgsl" %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x >= {{ n }}u) { return; }
  let first = batch[{{ begins }}u + id.y];
  let end = batch[{{ begins + 1 }}u + id.y];
{% if kind == "mean" %}
  var sum = 0.0;
  for (var t = first; t < end; t++) { sum += x[t * {{ x_pitch }}u + {{ x_first }}u + id.x]; }
  y[id.y * {{ y_pitch }}u + id.x] = sum / f32(end - first);
{% else %}
  let t = {{ "first" if kind == "cls" else "end - 1u" }};
  y[id.y * {{ y_pitch }}u + id.x] = x[t * {{ x_pitch }}u + {{ x_first }}u + id.x];
{% endif %}
}
