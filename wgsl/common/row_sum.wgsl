{# `sum_of(lane, value)`: over all invocations of a workgroup, through its memory #}
{% macro declare(workgroup) %}
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
{% endmacro %}
