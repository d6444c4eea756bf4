// {{ count }} streams of {{ n }} numbers: x, and parts of others, each made as long as x: one workgroup a part
{% include "common/bindings.wgsl" %}
{% set at = dict(places) %}
const N = {{ n }}u;
var<workgroup> partial: array<vec2<f32>, {{ workgroup }}>;  // sums of squares, of x and of the part

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let x0 = group.y * {{ at["x"][1] }}u + {{ at["x"][0] }}u;
  let part0 = group.y * {{ at["others"][1] }}u + {{ at["others"][0] }}u + group.x * N;
  let y0 = group.y * {{ at["y"][0] }}u;
  var square = vec2<f32>();
  for (var i = lane; i < N; i += {{ workgroup }}u) {
    let v = vec2<f32>(x[x0 + i], others[part0 + i]);
    square += v * v;
  }
  partial[lane] = square;
  for (var half = {{ workgroup // 2 }}u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] += partial[lane + half]; }
  }
  workgroupBarrier();
  let lengths = max(sqrt(partial[0]), vec2<f32>({{ least }}));
  for (var i = lane; i < N; i += {{ workgroup }}u) {
    if (group.x == 0u) { y[y0 + i] = x[x0 + i]; }
    y[y0 + (group.x + 1u) * {{ at["y"][1] }}u + i] = others[part0 + i] * lengths.x / lengths.y;
  }
}
