{# `four(at, i)`: numbers i to i + 3 of the `n` of a slot that begin at `at`, with zeros behind the last; `most`: of i + 3 #}
{% macro declare(slot, n, most) %}
fn four(at: u32, i: u32) -> vec4<f32> {
{% if n < most %}
  var found = vec4<f32>();
  for (var c = 0u; c < 4u && i + c < {{ n }}u; c++) { found[c] = {{ slot }}[at + i + c]; }
  return found;
{% else %}
  return vec4<f32>({{ slot }}[at + i], {{ slot }}[at + i + 1u], {{ slot }}[at + i + 2u], {{ slot }}[at + i + 3u]);
{% endif %}
}
{% endmacro %}
