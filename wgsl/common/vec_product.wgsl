{# What the matrix-vector kernels share: which rows of W and which results are an invocation's, and what becomes of them #}
{% import "common/lanes.wgsl" as order %}
{% set outputs = n // 2 if epilogue == "swiglu" else n %}
{% set out_per_group = rows_per_group // 2 if epilogue == "swiglu" else rows_per_group %}
{% set place = order.element("o", outputs) if y_lanes else offset ~ "u + o" %}
const NB = {{ k // 32 }}u;  // blocks of a row
const OUT = {{ outputs }}u;
{% macro rows() %}
  let lane = local % {{ lanes }}u;
  let slot = (group.x + group.y * 65535u) * {{ workgroup // lanes }}u + local / {{ lanes }}u;
  let out0 = slot * {{ out_per_group }}u;
{% for i in range(rows_per_group) %}
{% if epilogue == "swiglu" %}
  let row{{ i }} = min(out0 + {{ i % out_per_group }}u, OUT - 1u) + {{ "OUT" if i >= out_per_group else "0u" }};
{% else %}
  let row{{ i }} = min(out0 + {{ i }}u, OUT - 1u);
{% endif %}
{% endfor %}
{% if last_row %}
  let x0 = (batch[{{ io.n_tokens }}u] - 1u) * {{ k // 4 }}u;
{% else %}
  let x0 = 0u;
{% endif %}
{% endmacro %}
{# vec4 j of block b of x #}
{% macro at(j) %}{{ j ~ "u * NB + b" if x_lanes else "b * 8u + " ~ j ~ "u" }}{% endmacro %}
{# From acc[0], … and scale #}
{% macro results() %}
{% for i in range(out_per_group) %}
    if (out0 + {{ i }}u < OUT) {
      let o = out0 + {{ i }}u;
      var v = acc[{{ i }}] * scale{{ " + bias[o]" if bias }};
{% if epilogue == "swiglu" %}
      let up = acc[{{ i + out_per_group }}] * scale{{ " + bias[OUT + o]" if bias }};
      v = v / (1.0 + exp(-v)) * up;
{% endif %}
{% if epilogue == "add" %}
      y[{{ place }}] += v;
{% else %}
      y[{{ place }}] = v;
{% endif %}
    }
{% endfor %}
{% endmacro %}
