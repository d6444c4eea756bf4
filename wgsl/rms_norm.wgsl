// y = x / rms(x) * weight, or with epilogue "add" y += it; the weight is in lane order: one workgroup a token
{% import "common/lanes.wgsl" as order %}
{% include "common/bindings.wgsl" %}
const K4 = {{ k // 4 }}u;
var<workgroup> partial: array<f32, {{ workgroup }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
  var sum = 0.0;
  for (var i = lane; i < K4; i += {{ workgroup }}u) {
    let v = x[t * K4 + i];
    sum += dot(v, v);
  }
  partial[lane] = sum;
  for (var half = {{ workgroup // 2 }}u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] += partial[lane + half]; }
  }
  workgroupBarrier();
  let scale = inverseSqrt(partial[0] / {{ k }}.0 + {{ eps }});
  for (var i = lane; i < K4; i += {{ workgroup }}u) { y[t * K4 + i] {{ "+=" if epilogue == "add" else "=" }} x[t * K4 + i] * scale * norm_weight[{{ order.vector("i", k) }}]; }
}
