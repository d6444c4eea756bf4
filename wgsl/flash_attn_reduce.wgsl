// Puts the parts that flash_attn_vec's splits left together: one workgroup a query head.
{% import "common/lanes.wgsl" as order %}
{% include "common/bindings.wgsl" %}
const D4 = {{ head_dim // 4 }}u;
const SPLITS = {{ splits }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let first = group.x * SPLITS * (D4 + 1u);
  var top = -3.4e38;
  for (var s = 0u; s < SPLITS; s++) { top = max(top, x[first + s * (D4 + 1u) + D4].x); }
  for (var i = lane; i < D4; i += {{ workgroup }}u) {
    var sum = vec4<f32>(0.0);
    var norm = 0.0;
    for (var s = 0u; s < SPLITS; s++) {
      let part = first + s * (D4 + 1u);
      let fade = exp(x[part + D4].x - top);
      sum += x[part + i] * fade;
      norm += x[part + D4].y * fade;
    }
    let at = group.x * D4 + i;
    y[{{ order.vector("at", n_head * head_dim) if y_lanes else "at" }}] = sum / norm;
  }
}
