{% if slots[0].name != "raw" %}
{% include "common/codes4.wgsl" %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = coded(v.{{ "xyzw"[j % 4] }}{{ " >> 4u" if j >= 4 }});
{% endfor %}
  b.d = half_of(w_d[i >> 1u], i);
  b.m = 0.0;
  return b;
}
{% else %}
// File: f16 d, 16 bytes of nibbles
fn repack(at: u32, i: u32) {
  w_qs[i] = raw_vec4(at + 2u);
  w_qs[i + 1u] = raw_vec4(at + 20u);
  w_d[i >> 1u] = raw_halves(at, 18u);
}
{% endif %}
