{% import "common/unpack.wgsl" as u %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.crumbs("v", j) }});
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u);
  b.m = -b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File: 64 bytes of quants (as in q2_k), f16 d
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 16u; s++) {
    w_qs[i * 8u + s] = raw_crumbs(at + s / 8u * 66u + 32u * (s % 8u / 4u), s % 4u);
  }
  w_d[i >> 1u] = raw_halves(at + 64u, 66u);
}
{% endif %}
