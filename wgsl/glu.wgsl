// y = silu(gate) * up, or gelu(gate) * up, for a batch, where gate and up lie side by side in a row of x
{% import "common/glu.wgsl" as g %}
{% include "common/bindings.wgsl" %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < {{ n }}u) {
    let gate = x[id.y * {{ 2 * n }}u + id.x];
    y[id.y * {{ y_row }}u + id.x] = {{ g.activated(glu, "gate") }} * x[id.y * {{ 2 * n }}u + {{ n }}u + id.x];
  }
}
