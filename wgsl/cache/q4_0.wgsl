{# 32 values are 16 bytes and an f16 scale, as in ggml's q4_0: byte b holds values b and 16 + b; scales lie behind all bytes #}
{% import "common/cache.wgsl" as cache %}
{% macro load(c, width, unit, first) %}
{{ cache.load_scale(c, width, unit, first) }}
fn {{ c }}_eight(row: u32, i: u32) -> Eight {
  let v = {{ c }}_cache[row * {{ width // 32 }}u + (i >> 2u)];
  let pair = (select(v.xy, v.zw, (i & 1u) == 1u) >> vec2<u32>(2u * (i & 2u))) & vec2<u32>(0x0f0f0f0fu);
  let d = {{ c }}_scale(row, i >> 2u);
  return Eight(d * (bytes(pair.x) - 8.0), d * (bytes(pair.y) - 8.0));
}
{% endmacro %}
{% macro store(c, width, unit, first, words) %}
{{ cache.store_scales(c, width, unit, first, words) }}
fn {{ c }}_put(row: u32, i: u32, at: u32, write: bool) -> u32 {
  var scales = vec2<f32>(0.0);
  for (var block = 0u; block < {{ unit // 32 }}u; block++) {
    let from32 = at + 32u * block;
    var top = 0.0;
    for (var j = 0u; j < 32u; j++) { top = select(top, head[from32 + j], abs(head[from32 + j]) > abs(top)); }
    let d = top / -8.0;
    let inverse = select(0.0, -8.0 / top, top != 0.0);
    scales[block] = d;
    let rounded_d = unpack2x16float(pack2x16float(vec2<f32>(d, 0.0))).x;
    var v = vec4<u32>(0u);
    for (var j = 0u; j < 32u; j++) {
      let q = u32(clamp(head[from32 + j] * inverse + 8.5, 0.0, 15.0));
      v[(j & 15u) >> 2u] |= q << (8u * (j & 3u) + 4u * (j >> 4u));
      head[from32 + j] = rounded_d * (f32(q) - 8.0);
    }
    if (write) {
      let to = row * {{ width // 32 }}u + i * {{ unit // 32 }}u + block;
{{ cache.store4(c, "to", "v", words) }}    }
  }
  return pack2x16float(scales);
}
{% endmacro %}
