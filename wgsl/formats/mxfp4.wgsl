{% if slots[0].name != "raw" %}
{% include "common/codes4.wgsl" %}
// Planes: e is a byte a block; the scale is 2^(e - 128), as the codebook's values are doubled
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = coded(v.{{ "xyzw"[j % 4] }}{{ " >> 4u" if j >= 4 }});
{% endfor %}
  let e = (w_e[i >> 2u] >> (8u * (i & 3u))) & 255u;
  b.d = bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u));
  b.m = 0.0;
  return b;
}
{% else %}
// File: one byte of exponent, 16 bytes of nibbles
fn repack(at: u32, i: u32) {
  var e = 0u;
  for (var k = 0u; k < 4u; k++) {
    w_qs[i + k] = raw_vec4(at + k * 17u + 1u);
    e |= raw_u8(at + k * 17u) << (8u * k);
  }
  w_e[i >> 2u] = e;
}
{% endif %}
