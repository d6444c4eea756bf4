{% if slots[0].name != "raw" %}
{% include "common/codes4.wgsl" %}
// Planes: scales has the file's f16 d and eight 6-bit scales
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = coded(v.{{ "xyzw"[j % 4] }}{{ " >> 4u" if j >= 4 }});
{% endfor %}
  let s = w_scales[i >> 3u];
  b.d = unpack2x16float(s.x).x * (f32(six_bits(s.y, s.x >> 16u, i & 7u)) - 32.0);
  b.m = 0.0;
  return b;
}
{% else %}
// File: f16 d, 2 and 4 bytes of scales, 128 bytes of nibbles
fn repack(at: u32, i: u32) {
  w_scales[i] = raw_vec2(at);
  for (var s = 0u; s < 8u; s++) { w_qs[i * 8u + s] = raw_vec4(at + 8u + 16u * s); }
}
{% endif %}
