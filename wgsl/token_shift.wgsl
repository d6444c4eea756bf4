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
{% set each = (n + workgroup - 1) // workgroup %}
var<workgroup> partial: array<f32, {{ workgroup }}>;
var<workgroup> sixteenths: array<f32, 16>;  // fewer barriers than common/row_sum.wgsl, as every workgroup waits for the norm
fn sum_of(lane: u32, value: f32) -> f32 {
  workgroupBarrier();
  partial[lane] = value;
  workgroupBarrier();
  if (lane < 16u) {
    var sum = 0.0;
    for (var i = 0u; i < {{ workgroup // 16 }}u; i++) { sum += partial[16u * i + lane]; }
    sixteenths[lane] = sum;
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < 16u; i++) { sum += sixteenths[i]; }
  return sum;
}
{% endif %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  const N = {{ n }}u;
{% if norm %}
{% for part in range(each) %}
{% set at = "(lane + %du)" % (part * workgroup) %}
{% set there = n >= (part + 1) * workgroup %}
{% set value = "x[%s%s]" % (x0, order.element(at, row) if "x" in lanes else at) %}
  var v{{ part }} = {{ value if there else "select(0.0, %s, %s < N)" % (value, at) }};
{% endfor %}
{% if norm == "layer" %}
  let mean = sum_of(lane, {% for part in range(each) %}v{{ part }}{{ " + " if not loop.last }}{% endfor %}) / f32(N);
{% for part in range(each) %}
  v{{ part }} {{ "-= mean" if n >= (part + 1) * workgroup else "= select(0.0, v%d - mean, lane + %du < N)" % (part, part * workgroup) }};
{% endfor %}
{% endif %}
  let square = sum_of(lane, {% for part in range(each) %}v{{ part }} * v{{ part }}{{ " + " if not loop.last }}{% endfor %});
  let factor = inverseSqrt(square / f32(N) + {{ eps }});
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
