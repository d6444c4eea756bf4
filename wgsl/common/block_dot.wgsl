{# The product of 32 weights, `w`, and the activations a0 to a7, whose halves sum up to sum0 and sum1 #}
{% macro sums() %}
      let sum0 = dot(a0 + a1 + a2 + a3, vec4<f32>(1.0));
      let sum1 = dot(a4 + a5 + a6 + a7, vec4<f32>(1.0));
{% endmacro %}
{% macro half(w, part) %}({% for j in range(4 * part, 4 * part + 4) %}dot({{ w }}.q[{{ j }}], a{{ j }}){{ " + " if not loop.last }}{% endfor %}){% endmacro %}
{% macro product(w, split) -%}
{% if split %}dot({{ w }}.d, vec2<f32>({{ half(w, 0) }}, {{ half(w, 1) }})) + dot({{ w }}.m, vec2<f32>(sum0, sum1))
{%- else %}{{ w }}.d * ({{ half(w, 0) }} + {{ half(w, 1) }}) + {{ w }}.m * (sum0 + sum1)
{%- endif %}
{%- endmacro %}
