// Sums `count` values (acc[0], …) over the {{ "`lanes`" }} lanes that share a row; lane 0 holds the totals afterwards.
// subgroup: the size of every subgroup, which divides the lanes, or they it; 0: through workgroup memory alone, for any device.
{% macro declare(subgroup, workgroup, lanes, count) %}
{% if lanes > subgroup %}
var<workgroup> partial: array<f32, {{ workgroup // (subgroup or 1) * count }}>;
{% endif %}
{% endmacro %}
{% macro sum(subgroup, workgroup, lanes, count) %}
{% if lanes < subgroup %}
{% for n in range(6) if 2 ** n < lanes %}
{% for i in range(count) %}
  acc[{{ i }}] += subgroupShuffleXor(acc[{{ i }}], {{ 2 ** n }}u);
{% endfor %}
{% endfor %}
{% elif subgroup %}
{% for i in range(count) %}
  acc[{{ i }}] = subgroupAdd(acc[{{ i }}]);
{% endfor %}
{% endif %}
{% if lanes > subgroup %}
{% set size = subgroup or 1 %}
  if (local % {{ size }}u == 0u) {
{% for i in range(count) %}
    partial[{{ i * workgroup // size }}u + local / {{ size }}u] = acc[{{ i }}];
{% endfor %}
  }
  workgroupBarrier();
  if (lane == 0u) {
    for (var k = 1u; k < {{ lanes // size }}u; k++) {
{% for i in range(count) %}
      acc[{{ i }}] += partial[{{ i * workgroup // size }}u + local / {{ size }}u + k];
{% endfor %}
    }
  }
{% endif %}
{% endmacro %}
