{# 32 values are 32 bytes and an f16 scale, as in ggml's q8_0; the scales lie behind all bytes #}
{% import "common/cache.wgsl" as cache %}
{% macro load(c, width, unit, first) %}
{{ cache.load_scale(c, width, unit, first) }}
fn {{ c }}_eight(row: u32, i: u32) -> Eight {
  let v = {{ c }}_cache[row * {{ width // 16 }}u + (i >> 1u)];
  let half = select(v.xy, v.zw, (i & 1u) == 1u);
  let d = {{ c }}_scale(row, i >> 2u);
  return Eight(d * signed_bytes(half.x), d * signed_bytes(half.y));
}
{% endmacro %}
{% macro store(c, width, unit, first, words) %}
{{ cache.store_scales(c, width, unit, first, words) }}
fn {{ c }}_put(row: u32, i: u32, at: u32, write: bool) -> u32 {
  var scales = vec2<f32>(0.0);
  for (var block = 0u; block < {{ unit // 32 }}u; block++) {
    let from32 = at + 32u * block;
    var top = 0.0;
    for (var j = 0u; j < 32u; j++) { top = max(top, abs(head[from32 + j])); }
    let d = top / 127.0;
    let inverse = select(0.0, 127.0 / top, top > 0.0);
    scales[block] = d;
    let rounded_d = unpack2x16float(pack2x16float(vec2<f32>(d, 0.0))).x;
    for (var part = 0u; part < 2u; part++) {
      var v: vec4<u32>;
      for (var j = 0u; j < 4u; j++) {
        let k = from32 + 16u * part + 4u * j;
        let q = vec4<i32>(round(vec4<f32>(head[k], head[k + 1u], head[k + 2u], head[k + 3u]) * inverse));
        v[j] = packed_bytes(q);
        let rounded = rounded_d * vec4<f32>(q);
        head[k] = rounded.x;
        head[k + 1u] = rounded.y;
        head[k + 2u] = rounded.z;
        head[k + 3u] = rounded.w;
      }
      if (write) {
        let to = row * {{ width // 16 }}u + i * {{ unit // 16 }}u + 2u * block + part;
{{ cache.store4(c, "to", "v", words) }}      }
    }
  }
  return pack2x16float(scales);
}
{% endmacro %}
