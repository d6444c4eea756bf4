{% if slots[0].name != "raw" %}
{% include "common/codes4.wgsl" %}
// An unsigned float of 4 and 3 bits, halved, as the codebook's values are doubled; 0x7f stands for 0
fn ue4m3(v: u32) -> f32 {
  let normal = bitcast<f32>(((v & 127u) << 20u) + (119u << 23u));
  let x = select(normal, f32(v & 7u) * 0.0009765625, (v & 120u) == 0u);
  return select(x, 0.0, v == 127u);
}
// Planes: scales has a byte for each 16 weights
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let s = w_scales[i >> 1u] >> (16u * (i & 1u));
  let scale = vec2<f32>(ue4m3(s & 255u), ue4m3((s >> 8u) & 255u));
{% for j in range(8) %}
  b.q[{{ j }}] = coded(v.{{ "xyzw"[j % 4] }}{{ " >> 4u" if j >= 4 }}) * scale.{{ "xy"[j // 4] }};
{% endfor %}
  b.d = 1.0;
  b.m = 0.0;
  return b;
}
{% else %}
// File: 4 scales; for each 16 weights 8 bytes, the first eight weights in their low halves
fn repack(at: u32, i: u32) {
  w_scales[i] = raw_u32(at);
  for (var k = 0u; k < 2u; k++) {
    let first = raw_vec2(at + 4u + 16u * k);
    let last = raw_vec2(at + 12u + 16u * k);
    let mask = vec2<u32>(0x0f0f0f0fu);
    let four = vec2<u32>(4u);
    w_qs[2u * i + k] = vec4<u32>(
      (first & mask) | ((last & mask) << four),
      ((first >> four) & mask) | (last & ~mask));
  }
}
{% endif %}
