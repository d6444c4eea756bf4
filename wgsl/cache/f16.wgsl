{% import "common/cache.wgsl" as cache %}
{% macro load(c, width, unit, first) %}
fn {{ c }}_eight(row: u32, i: u32) -> Eight {
  let v = {{ c }}_cache[row * {{ width // 8 }}u + i];
  return Eight(vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)), vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)));
}
{% endmacro %}
{% macro store(c, width, unit, first, words) %}
fn {{ c }}_put(row: u32, i: u32, at: u32, write: bool) -> u32 {
  var v: vec4<u32>;
  for (var j = 0u; j < 4u; j++) {
    v[j] = pack2x16float(vec2<f32>(head[at + 2u * j], head[at + 2u * j + 1u]));
    let rounded = unpack2x16float(v[j]);
    head[at + 2u * j] = rounded.x;
    head[at + 2u * j + 1u] = rounded.y;
  }
  if (!write) { return 0u; }
  let to = row * {{ width // 8 }}u + i;
{{ cache.store4(c, "to", "v", words) }}  return 0u;
}
{% endmacro %}
