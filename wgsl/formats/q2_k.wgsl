{% import "common/unpack.wgsl" as u %}
// Planes: scales has a byte for each 16 weights: scale in its low half, minimum in its high one
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let s = w_scales[i >> 1u] >> (16u * (i & 1u));
  let dm = unpack2x16float(w_dm[i >> 3u]);
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.crumbs("v", j) }});
{% endfor %}
  b.d = dm.x * vec2<f32>(vec2<u32>(s, s >> 8u) & vec2<u32>(15u));
  b.m = -dm.y * vec2<f32>(vec2<u32>(s >> 4u, s >> 12u) & vec2<u32>(15u));
  return b;
}
{% if slots[0].name == "raw" %}
// File: 16 bytes of scales, 64 bytes of quants (byte l of 32 holds weight l of four blocks), f16 d, f16 dmin
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 8u; s++) { w_qs[i * 8u + s] = raw_crumbs(at + 16u + 32u * (s / 4u), s % 4u); }
  for (var j = 0u; j < 4u; j++) { w_scales[i * 4u + j] = raw_u32(at + 4u * j); }
  w_dm[i] = raw_u32(at + 80u);
}
{% endif %}
