{% import "common/unpack.wgsl" as u %}
// A bit is twice the scale or nothing, above minus the scale
fn load32(i: u32) -> Block {
  var b: Block;
  let h = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.bits("h", j, 1) }});
{% endfor %}
  b.d = half_of(w_d[i >> 3u], i >> 2u);
  b.m = -b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, 16 bytes of bits, one weight after the other
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 8u; s++) { w_qs[i * 4u + s] = raw_bits_in_a_row(at + s / 4u * 18u + 2u + 4u * (s % 4u)); }
  w_d[i >> 1u] = raw_halves(at, 18u);
}
{% endif %}
