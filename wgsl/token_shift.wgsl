// Token shift: of each token, {{ planes }} rows between it and the one before it; of the first, that is in `state`, where the last
// one is left. An invocation for each number of a row
//   norm:  the input is normed on the way, by every workgroup, and kept normed; of one token
//   lanes: x and y are in lane order (common/lanes.wgsl); weights of norms always are
{% import "common/lanes.wgsl" as order %}
{% include "common/bindings.wgsl" %}
{% set place = order.element("i", row) %}
{% set of_x = place if "x" in lanes else "i" %}
{% set x0 = "%du + " % x[0] if x[0] %}
{% if norm %}
var<workgroup> partial: array<f32, {{ workgroup }}>;
fn sum_of(lane: u32, value: f32) -> f32 {
  workgroupBarrier();
  partial[lane] = value;
  for (var half = {{ workgroup // 2 }}u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] += partial[lane + half]; }
  }
  workgroupBarrier();
  return partial[0];
}
{% endif %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  const N = {{ n }}u;
{% if norm == "layer" %}
  var total = 0.0;
  for (var i = lane; i < N; i += {{ workgroup }}u) { total += x[{{ x0 }}{{ of_x }}]; }
  let mean = sum_of(lane, total) / f32(N);
{% endif %}
{% if norm %}
  var square = 0.0;
  for (var i = lane; i < N; i += {{ workgroup }}u) {
    let v = x[{{ x0 }}{{ of_x }}]{{ " - mean" if norm == "layer" }};
    square += v * v;
  }
  let factor = inverseSqrt(sum_of(lane, square) / f32(N) + {{ eps }});
{% endif %}
  let i = id.x;
  if (i >= N) { return; }
{% if several %}
  let t = id.y;
  let now = x[{{ x0 }}t * {{ x[1] }}u + i];
  var before = 0.0;
  if (t > 0u) {
    before = x[{{ x0 }}(t - 1u) * {{ x[1] }}u + i];
  } else {
    if (batch[{{ io.n_past }}u] > 0u) { before = state[i]; }
    state[i] = x[{{ x0 }}(batch[{{ io.n_tokens }}u] - 1u) * {{ x[1] }}u + i];
  }
{% else %}
  let now = {{ "(" if norm }}x[{{ x0 }}{{ of_x }}]{{ " - mean" if norm == "layer" }}{{ ") * factor * norm_weight[%s]" % place if norm }}{{ " + norm_bias[%s]" % place if norm_bias }};
  let before = select(state[i], 0.0, batch[{{ io.n_past }}u] == 0u);
  state[i] = now;
{% endif %}
{% for p in range(planes) %}
  y[{{ "%du + " % (p * y[1]) if p }}{{ "t * %du + " % y[0] if several }}{{ place if "y" in lanes else "i" }}] = now + (before - now) * lerp[{{ "%du + " % (p * n) if p }}i];
{% endfor %}
}
