// y = x / rms(x) * weight, or with epilogue "add" y += it; the weight is in lane order: one workgroup a token
{% import "common/lanes.wgsl" as order %}
{% import "common/row_end.wgsl" as end %}
{% include "common/bindings.wgsl" %}
{{ end.declare(columns, k) }}const K4 = {{ k // 4 }}u;
{% set x = end.read(columns, k, "x[t * K4 + i]", "i") %}
var<workgroup> partial: array<f32, {{ workgroup }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
  var sum = 0.0;
  for (var i = lane; i < K4; i += {{ workgroup }}u) {
    let v = {{ x }};
    sum += dot(v, v);
  }
  partial[lane] = sum;
  for (var half = {{ workgroup // 2 }}u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] += partial[lane + half]; }
  }
  workgroupBarrier();
  let scale = inverseSqrt(partial[0] / {{ columns }}.0 + {{ eps }});
  for (var i = lane; i < K4; i += {{ workgroup }}u) { y[t * K4 + i] {{ "+=" if epilogue == "add" else "=" }} {{ x }} * scale * norm_weight[{{ order.vector("i", k) }}]; }
}
