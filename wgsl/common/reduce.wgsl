// Sums `count` values (acc[0], …) over the lanes that share a row; lane 0 holds the totals afterwards.
// reduce "subgroup": the lanes are exactly one subgroup; "shared": through workgroup memory, for any device.
{% macro declare(reduce, workgroup, count) %}
{% if reduce == "shared" %}
var<workgroup> partial: array<f32, {{ workgroup * count }}>;
{% endif %}
{% endmacro %}
{% macro sum(reduce, workgroup, lanes, count) %}
{% if reduce == "subgroup" %}
{% for i in range(count) %}
  acc[{{ i }}] = subgroupAdd(acc[{{ i }}]);
{% endfor %}
{% else %}
{% for i in range(count) %}
  partial[{{ i * workgroup }}u + local] = acc[{{ i }}];
{% endfor %}
  workgroupBarrier();
  if (lane == 0u) {
    for (var k = 1u; k < {{ lanes }}u; k++) {
{% for i in range(count) %}
      acc[{{ i }}] += partial[{{ i * workgroup }}u + local + k];
{% endfor %}
    }
  }
{% endif %}
{% endmacro %}
