{% import "common/unpack.wgsl" as u %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.crumbs("v", j) }});
{% endfor %}
  b.d = half_of(w_d[i >> 2u], i >> 1u);
  b.m = -b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, 16 bytes of two bits, one weight after the other
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 4u; s++) { w_qs[i * 2u + s] = raw_crumbs_in_a_row(at + s / 2u * 18u + 2u + 8u * (s % 2u)); }
  w_d[i >> 1u] = raw_halves(at, 18u);
}
{% endif %}
