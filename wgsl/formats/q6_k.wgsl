{% import "common/unpack.wgsl" as u %}
// Planes: qs holds the low four bits, qh the upper two; scales has a byte for each 16 weights
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i];
  let s = w_scales[i >> 1u] >> (16u * (i & 1u));
  let scale = vec2<f32>(vec2<i32>(i32(s << 24u), i32(s << 16u)) >> vec2<u32>(24u));
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.nibbles("v", j) }} | {{ u.crumbs("h", j, 4) }});
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u) * scale;
  b.m = -32.0 * b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File, for each 128 weights: 64 bytes of low bits (byte l of 32 holds weight l of blocks 0 and 2, then of 1 and 3);
// then, for each, 32 bytes of upper bits (as in q2_k); 16 scales of 8 bits, f16 d
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    let src = at + k * 210u;
    for (var s = 0u; s < 8u; s++) {
      let half = s / 4u;
      w_qs[(i + k) * 8u + s] = raw_nibbles(src + 64u * half + 32u * (s % 2u), s % 4u / 2u);
      w_qh[(i + k) * 8u + s] = raw_crumbs(src + 128u + 32u * half, s % 4u);
    }
    for (var j = 0u; j < 4u; j++) { w_scales[(i + k) * 4u + j] = raw_u32(src + 192u + 4u * j); }
  }
  w_d[i >> 1u] = raw_halves(at + 208u, 210u);
}
{% endif %}
