{% if slots[0].name != "raw" %}
{% include "common/grid.wgsl" %}
// Planes: qs has nine bits of grid point and seven of signs for 8 weights, scales four bits for 16
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let s = w_scales[i >> 2u] >> (8u * (i & 3u));
  let scale = 0.125 + 0.25 * vec2<f32>(vec2<u32>(s, s >> 4u) & vec2<u32>(15u));
{% for j in range(4) %}
  {
    let code = v.{{ "xy"[j // 2] }} >> {{ 16 * (j % 2) }}u;
    let point = w_codes[code & 511u];
    let signs = even_signs(code >> 9u);
    b.q[{{ 2 * j }}] = signed4(bytes_u8(point.x), signs) * scale.{{ "xy"[j // 2] }};
    b.q[{{ 2 * j + 1 }}] = signed4(bytes_u8(point.y), signs >> 4u) * scale.{{ "xy"[j // 2] }};
  }
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u);
  b.m = 0.0;
  return b;
}
{% else %}
// File: f16 d, 64 bytes of quants, 8 bytes of scales
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    let src = at + k * 74u;
    for (var s = 0u; s < 8u; s++) { w_qs[(i + k) * 8u + s] = raw_vec2(src + 2u + 8u * s); }
    for (var j = 0u; j < 2u; j++) { w_scales[(i + k) * 2u + j] = raw_u32(src + 66u + 4u * j); }
  }
  w_d[i >> 1u] = raw_halves(at, 74u);
}
{% endif %}
