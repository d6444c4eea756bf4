{% import "common/unpack.wgsl" as u %}
// Planes: scales are two rows of 6-bit numbers, for the first and for the last 16 weights of each block
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i];
  let at = i / 8u * 3u;
  let high = w_scales[at + 2u];
  let six = vec2<u32>(six_bits(w_scales[at], high, i & 7u), six_bits(w_scales[at + 1u], high >> 16u, i & 7u));
  let scale = vec2<f32>(six) - 32.0;
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.crumbs("v", j) }} | {{ u.bits("h", j, 2) }});
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u) * scale;
  b.m = -4.0 * b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// Scale n of 16: four bits in the first eight bytes, two in the other four
fn file_scale(at: u32, n: u32) -> u32 {
  let low = raw_u8(at + n % 8u) >> (4u * (n / 8u));
  let high = raw_u8(at + 8u + n % 4u) >> (2u * (n / 4u));
  return (low & 15u) | ((high & 3u) << 4u);
}
// File: 32 bytes of third bits (bit s for block s), 64 bytes of quants (as in q2_k), 12 bytes of scales, f16 d
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    let src = at + k * 110u;
    var scales = vec3<u32>(0u);
    for (var s = 0u; s < 8u; s++) {
      w_qs[(i + k) * 8u + s] = raw_crumbs(src + 32u + 32u * (s / 4u), s % 4u);
      w_qh[(i + k) * 8u + s] = raw_bits(src, s);
      scales |= six_bits_of(vec2<u32>(file_scale(src + 96u, 2u * s), file_scale(src + 96u, 2u * s + 1u)), s);
    }
    for (var j = 0u; j < 3u; j++) { w_scales[(i + k) * 3u + j] = scales[j]; }
  }
  w_d[i >> 1u] = raw_halves(at + 108u, 110u);
}
{% endif %}
