{% import "common/cache.wgsl" as cache %}
{% macro load(c, width, unit, first) %}
fn {{ c }}_eight(row: u32, i: u32) -> Eight {
  let at = (row * {{ width // 8 }}u + i) * 2u;
  return Eight(bitcast<vec4<f32>>({{ c }}_cache[at]), bitcast<vec4<f32>>({{ c }}_cache[at + 1u]));
}
{% endmacro %}
{% macro store(c, width, unit, first, words) %}
fn {{ c }}_put(row: u32, i: u32, at: u32, write: bool) -> u32 {
  if (!write) { return 0u; }
  for (var h = 0u; h < 2u; h++) {
    let v = vec4<f32>(head[at + 4u * h], head[at + 4u * h + 1u], head[at + 4u * h + 2u], head[at + 4u * h + 3u]);
    let to = (row * {{ width // 8 }}u + i) * 2u + h;
{{ cache.store4(c, "to", "bitcast<vec4<u32>>(v)", words) }}  }
  return 0u;
}
{% endmacro %}
