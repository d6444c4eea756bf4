// y = silu(gate) * up for a batch, where gate and up lie side by side in a row of x
{% include "common/bindings.wgsl" %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  if (id.x < {{ n }}u) {
    let gate = x[id.y * {{ 2 * n }}u + id.x];
    y[id.y * {{ n }}u + id.x] = gate / (1.0 + exp(-gate)) * x[id.y * {{ 2 * n }}u + {{ n }}u + id.x];
  }
}
