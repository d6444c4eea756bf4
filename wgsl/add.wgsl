// y += x, {{ n }} numbers a token
{% include "common/bindings.wgsl" %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < {{ n // 4 }}u) { y[id.y * {{ n // 4 }}u + id.x] += x[id.y * {{ n // 4 }}u + id.x]; }
}
