{# `four(t, at, i)`: numbers i to i + 3 of the `n` of token t that begin at `at`, with zeros behind the last; `most`: of i + 3 #}
{% macro declare(n, most) %}
fn four(t: u32, at: u32, i: u32) -> vec4<f32> {
{% if n < most %}
  var found = vec4<f32>();
  for (var c = 0u; c < 4u && i + c < {{ n }}u; c++) { found[c] = number(t, at + i + c); }
  return found;
{% else %}
  return vec4<f32>(number(t, at + i), number(t, at + i + 1u), number(t, at + i + 2u), number(t, at + i + 3u));
{% endif %}
}
{% endmacro %}
