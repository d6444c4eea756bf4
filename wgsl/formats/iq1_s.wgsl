{% if slots[0].name != "raw" %}
// Planes: qs has the low bits of four grid points; qh their upper bits, three bits of scale and the sign of the shift
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i >> 1u] >> (16u * (i & 1u));
{% for j in range(4) %}
  {
    let point = w_codes[((v >> {{ 8 * j }}u) & 255u) | (((h >> {{ 3 * j }}u) & 7u) << 8u)];
    b.q[{{ 2 * j }}] = bytes_i8(point.x);
    b.q[{{ 2 * j + 1 }}] = bytes_i8(point.y);
  }
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u) * f32(1u + 2u * ((h >> 12u) & 7u));
  b.m = select(0.125, -0.125, (h & 0x8000u) != 0u) * b.d;
  return b;
}
{% else %}
// File: f16 d, 32 bytes of low bits, 16 bytes of the rest
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    let src = at + k * 50u;
    for (var s = 0u; s < 8u; s++) { w_qs[(i + k) * 8u + s] = raw_u32(src + 2u + 4u * s); }
    for (var j = 0u; j < 4u; j++) { w_qh[(i + k) * 4u + j] = raw_u32(src + 34u + 4u * j); }
  }
  w_d[i >> 1u] = raw_halves(at, 50u);
}
{% endif %}
