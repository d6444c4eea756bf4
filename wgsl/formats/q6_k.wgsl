// Planes: qs holds the low four bits; qh the high two: bits 2 j and 2 j + 1 of a byte belong to word j of nibbles;
// a scale for each 16 weights.
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i];
  let scales = bytes_i8(w_scales[i >> 1u] >> (16u * (i & 1u)));
{% for j in range(4) %}
  b.q[{{ j }}] = (bytes_u8((v.{{ "xyzw"[j] }} & 0x0f0f0f0fu) | (((h.x >> {{ 2 * j }}u) & 0x03030303u) << 4u)) - 32.0) * scales.x;
  b.q[{{ j + 4 }}] = (bytes_u8(((v.{{ "xyzw"[j] }} >> 4u) & 0x0f0f0f0fu) | (((h.y >> {{ 2 * j }}u) & 0x03030303u) << 4u)) - 32.0) * scales.y;
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u);
  b.m = 0.0;
  return b;
}
{% if slots[0].name == "raw" %}
{% include "common/k_quants.wgsl" %}
// File: 128 bytes of low bits, 64 bytes of high bits (2 a weight), 16 scales of 8 bits, f16 d
fn repack(pair: u32, first: u32) {
  for (var k = 0u; k < 2u; k++) {
    let at = (2u * pair + k) * 210u;
    let i = first + 2u * pair + k;
    for (var s = 0u; s < 8u; s++) {
      let low = at + 64u * (s / 4u) + 32u * (s % 2u);
      if (s % 4u < 2u) { w_qs[i * 8u + s] = k_low_nibbles(low); } else { w_qs[i * 8u + s] = k_high_nibbles(low); }
      var high = vec2<u32>(0u);
      for (var j = 0u; j < 4u; j++) {
        let words = vec2<u32>(raw_u32(at + 128u + 32u * (s / 4u) + 4u * j), raw_u32(at + 144u + 32u * (s / 4u) + 4u * j));
        high |= ((words >> vec2<u32>(2u * (s % 4u))) & vec2<u32>(0x03030303u)) << vec2<u32>(2u * j);
      }
      w_qh[i * 8u + s] = high;
    }
    for (var j = 0u; j < 4u; j++) { w_scales[i * 4u + j] = raw_u32(at + 192u + 4u * j); }
  }
  w_d[(first >> 1u) + pair] = raw_u16(pair * 420u + 208u) | (raw_u16(pair * 420u + 418u) << 16u);
}
{% endif %}
