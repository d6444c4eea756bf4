{# Rows are whole blocks of 32 numbers, k of them, of which `columns` are there: behind the end of a row of activations there
   may be anything, which is read as zero. `v`: its vec4 number `i`. #}
{% macro declare(columns, k) %}
{% if columns != k %}
fn before_end(v: vec4<f32>, i: u32) -> vec4<f32> {
  return select(vec4<f32>(0.0), v, vec4<u32>(4u * i) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>({{ columns }}u));
}
{% endif %}
{% endmacro %}
{% macro read(columns, k, v, i) %}{{ "before_end(%s, %s)" % (v, i) if columns != k else v }}{% endmacro %}
