{# Keys and values of the batch itself, where there is no cache: what is before a head's numbers takes its row's place #}
{% macro rows(qkv_row) %}
fn cache_row(t: u32) -> u32 { return t * {{ qkv_row }}u; }
struct Eight { low: vec4<f32>, high: vec4<f32> }
{% endmacro %}
{% macro load(c, head_dim, eights) %}
fn {{ c }}_eight(at: u32, i: u32) -> Eight {
{% if eights %}
  return Eight(qkv[at / 4u + 2u * i], qkv[at / 4u + 2u * i + 1u]);
{% else %}
  var eight = Eight(vec4<f32>(0.0), vec4<f32>(0.0));
  for (var d = 8u * i; d < min(8u * i + 4u, {{ head_dim }}u); d++) { eight.low[d % 4u] = qkv[at + d]; }
  for (var d = 8u * i + 4u; d < min(8u * i + 8u, {{ head_dim }}u); d++) { eight.high[d % 4u] = qkv[at + d]; }
  return eight;
{% endif %}
}
{% endmacro %}
