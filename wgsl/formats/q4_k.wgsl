{% import "common/unpack.wgsl" as u %}
{% include "common/dm6.wgsl" %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.nibbles("v", j) }});
{% endfor %}
  let dm = scale_and_minimum(i);
  b.d = dm.x;
  b.m = -dm.y;
  return b;
}
{% if slots[0].name == "raw" %}
// File: 16 bytes of scales, 128 bytes of quants (byte l of 32 holds weight l of two blocks)
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 8u; s++) { w_qs[i * 8u + s] = raw_nibbles(at + 16u + 32u * (s / 2u), s % 2u); }
  w_dm[i] = raw_dm6(at);
}
{% endif %}
