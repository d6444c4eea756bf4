{% import "common/unpack.wgsl" as u %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i];
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.nibbles("v", j) }} | {{ u.bits("h", j, 4) }});
{% endfor %}
  b.d = half_of(w_d[i >> 1u], i);
  b.m = -16.0 * b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, 4 bytes of fifth bits, 16 bytes of nibbles
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    w_qh[i + k] = raw_bits_in_a_row(at + k * 22u + 2u);
    w_qs[i + k] = raw_vec4(at + k * 22u + 6u);
  }
  w_d[i >> 1u] = raw_halves(at, 22u);
}
{% endif %}
