{% if slots[0].name != "raw" %}
{% include "common/grid.wgsl" %}
// Planes: qs has a byte for each grid point of 4 weights; signs 4 x 7 bits and four bits of scale
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let s = w_signs[i];
{% for j in range(4) %}
  {
    let signs = even_signs(s >> {{ 7 * j }}u);
    let codes = v.{{ "xy"[j // 2] }} >> {{ 16 * (j % 2) }}u;
    b.q[{{ 2 * j }}] = signed4(bytes_u8(w_codes[codes & 255u]), signs);
    b.q[{{ 2 * j + 1 }}] = signed4(bytes_u8(w_codes[(codes >> 8u) & 255u]), signs >> 4u);
  }
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u) * (0.25 + 0.5 * f32(s >> 28u));
  b.m = 0.0;
  return b;
}
{% else %}
// File: f16 d, 64 bytes of quants, 32 bytes of signs and scales
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    let src = at + k * 98u;
    for (var s = 0u; s < 8u; s++) {
      w_qs[(i + k) * 8u + s] = raw_vec2(src + 2u + 8u * s);
      w_signs[(i + k) * 8u + s] = raw_u32(src + 66u + 4u * s);
    }
  }
  w_d[i >> 1u] = raw_halves(at, 98u);
}
{% endif %}
