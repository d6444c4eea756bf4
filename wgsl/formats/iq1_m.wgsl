{% if slots[0].name != "raw" %}
// Planes: qs has the low bits of four grid points; qh three upper bits and the sign of the shift of each; scales an f16
// and six bits a block, three of them for 16 weights
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i >> 1u] >> (16u * (i & 1u));
  let s = w_scales[i >> 3u];
  let six = six_bits(s.y, s.x >> 16u, i & 7u);
  let scale = vec2<f32>(vec2<u32>(1u) + 2u * vec2<u32>(six & 7u, six >> 3u));
{% for j in range(4) %}
  {
    let high = h >> {{ 4 * j }}u;
    let point = w_codes[((v >> {{ 8 * j }}u) & 255u) | ((high & 7u) << 8u)];
    let shift = select(0.125, -0.125, (high & 8u) != 0u);
    b.q[{{ 2 * j }}] = (bytes_i8(point.x) + shift) * scale.{{ "xy"[j // 2] }};
    b.q[{{ 2 * j + 1 }}] = (bytes_i8(point.y) + shift) * scale.{{ "xy"[j // 2] }};
  }
{% endfor %}
  b.d = unpack2x16float(s.x).x;
  b.m = 0.0;
  return b;
}
{% else %}
// File: 32 bytes of low bits, 16 bytes of upper bits, four u16 of four scales each, whose upper four bits make the f16
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 8u; s++) { w_qs[i * 8u + s] = raw_u32(at + 4u * s); }
  for (var j = 0u; j < 4u; j++) { w_qh[i * 4u + j] = raw_u32(at + 32u + 4u * j); }
  var scales = vec2<u32>(0u);
  for (var j = 0u; j < 4u; j++) {
    let word = raw_u16(at + 48u + 2u * j);
    scales.x |= (word >> 12u) << (4u * j);
    for (var s = 2u * j; s < 2u * j + 2u; s++) {
      let six = (word >> (6u * (s & 1u))) & 63u;
      scales |= vec2<u32>((six >> 4u) << (16u + 2u * s), (six & 15u) << (4u * s));
    }
  }
  w_scales[i] = scales;
}
{% endif %}
