{% if slots[0].name != "raw" %}
{% include "common/grid.wgsl" %}
// Planes: of qs, the first word has the low bits of four grid points, the second the signs; scales has a byte with the
// points' upper bits and one with four bits of scale for 16 weights
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let s = w_scales[i >> 1u] >> (16u * (i & 1u));
  let scale = 0.125 + 0.25 * vec2<f32>(vec2<u32>(s >> 8u, s >> 12u) & vec2<u32>(15u));
{% for j in range(4) %}
  {
    let point = w_codes[((v.x >> {{ 8 * j }}u) & 255u) | (((s >> {{ 2 * j }}u) & 3u) << 8u)];
    b.q[{{ 2 * j }}] = signed4(bytes_u8(point.x), v.y >> {{ 8 * j }}u) * scale.{{ "xy"[j // 2] }};
    b.q[{{ 2 * j + 1 }}] = signed4(bytes_u8(point.y), v.y >> {{ 8 * j + 4 }}u) * scale.{{ "xy"[j // 2] }};
  }
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u);
  b.m = 0.0;
  return b;
}
{% else %}
// File: f16 d, 32 bytes of low bits, 32 of signs, 8 of upper bits, 8 of scales
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    let src = at + k * 82u;
    for (var s = 0u; s < 8u; s++) {
      w_qs[(i + k) * 8u + s] = vec2<u32>(raw_u32(src + 2u + 4u * s), raw_u32(src + 34u + 4u * s));
    }
    for (var j = 0u; j < 4u; j++) {
      let high = raw_u16(src + 66u + 2u * j);
      let scale = raw_u16(src + 74u + 2u * j);
      let even = (high & 0xffu) | ((scale & 0xffu) << 8u);
      w_scales[(i + k) * 4u + j] = even | ((high & 0xff00u) << 8u) | ((scale & 0xff00u) << 16u);
    }
  }
  w_d[i >> 1u] = raw_halves(at, 82u);
}
{% endif %}
