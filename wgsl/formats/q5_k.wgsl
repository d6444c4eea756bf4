{% import "common/unpack.wgsl" as u %}
{% include "common/dm6.wgsl" %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i];
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.nibbles("v", j) }} | {{ u.bits("h", j, 4) }});
{% endfor %}
  let dm = scale_and_minimum(i);
  b.d = dm.x;
  b.m = -dm.y;
  return b;
}
{% if slots[0].name == "raw" %}
// File: 16 bytes of scales, 32 bytes of fifth bits (bit s for block s), 128 bytes of quants (as in q4_k)
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 8u; s++) {
    w_qh[i * 8u + s] = raw_bits(at + 16u, s);
    w_qs[i * 8u + s] = raw_nibbles(at + 48u + 32u * (s / 2u), s % 2u);
  }
  w_dm[i] = raw_dm6(at);
}
{% endif %}
