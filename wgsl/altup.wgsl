// AltUp: {{ count }} streams of {{ n }} numbers, the first of which is the one that is computed, are {{ "corrected by what was computed of it" if "activated" in dict(places) else "predicted of each other" }}.
// Every workgroup of a token routes it: what is routed by, normed, gives {{ count }} numbers, and these the coefficients
{% import "common/functions.wgsl" as f %}
{% include "common/bindings.wgsl" %}
{% set at = dict(places) %}
{% set corrects = "activated" in at %}
{% macro row(slot) %}{{ slot }}[t * {{ at[slot][1] }}u + {{ at[slot][0] }}u + i]{% endmacro %}
{% macro stream(slot, k) %}{{ slot }}[t * {{ at[slot][0] }}u + {{ k * at[slot][1] }}u + i]{% endmacro %}
{% set n_coef = count if corrects else count * count %}
{{ f.functions }}
const N = {{ n }}u;
const COUNT = {{ count }}u;
var<workgroup> partial: array<array<f32, {{ count + 1 }}>, {{ workgroup }}>;  // sums of squares and of the router's products
var<workgroup> coefs: array<f32, {{ n_coef }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
  var sums: array<f32, {{ count + 1 }}>;
  for (var i = lane; i < N; i += {{ workgroup }}u) {
    let v = {{ row("activated") if corrects else stream("x", 0) }};
    let scaled = v * router_norm[i];
    sums[0] += v * v;
{% for k in range(count) %}
    sums[{{ k + 1 }}] += scaled * router[{{ "%du + " % (k * n) if k }}i];
{% endfor %}
  }
  partial[lane] = sums;
  for (var half = {{ workgroup // 2 }}u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) {
{% for k in range(count + 1) %}
      partial[lane][{{ k }}] += partial[lane + half][{{ k }}];
{% endfor %}
    }
  }
  workgroupBarrier();
  let factor = inverseSqrt(partial[0][0] / f32(N) + {{ eps }}) / f32(N);
  for (var c = lane; c < {{ n_coef }}u; c += {{ workgroup }}u) {
    var coefficient = 0.0;
    for (var k = 0u; k < COUNT; k++) { coefficient += coef[c * COUNT + k] * op_tanh(partial[0][k + 1u] * factor); }
    coefs[c] = coefficient;
  }
  workgroupBarrier();
  for (var i = group.x * {{ workgroup }}u + lane; i < N; i += {{ groups * workgroup }}u) {
{% for k in range(count) %}
    let x{{ k }} = {{ stream("x", k) }}{{ " + " ~ row("branch") if k and "branch" in at }};
{% endfor %}
{% if corrects %}
    let error = {{ row("activated") }} - x0;
{% for j in range(count) %}
    let y{{ j }} = x{{ j }} + (1.0 + coefs[{{ j }}]) * error;
{% endfor %}
    {{ stream("y", count) }} = y0 * active_scale[i];
{% else %}
{% for j in range(count) %}
    let y{{ j }} = x{{ j }}{% for k in range(count) %} + coefs[{{ j * count + k }}] * x{{ k }}{% endfor %};
{% endfor %}
{% endif %}
{% for j in range(count) %}
    {{ stream("y", j) }} = y{{ j }};
{% endfor %}
  }
}
