{% if slots[0].name != "raw" %}
{% include "common/grid.wgsl" %}
// Planes: qs has the low bits of a grid point of 4 weights. scales has seven words for two superblocks: a byte of the
// points' ninth bits a block (2 + 2 words), four bits of scale a block (1 + 1), both f16 d (1)
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let signs = w_signs[i];
  let at = i / 16u * 7u;
  let k = (i >> 3u) & 1u;
  let high = w_scales[at + ((i >> 2u) & 3u)] >> (8u * (i & 3u));
{% for j in range(8) %}
  {
    let code = ((v.{{ "xy"[j // 4] }} >> {{ 8 * (j % 4) }}u) & 255u) | (((high >> {{ j }}u) & 1u) << 8u);
    b.q[{{ j }}] = signed4(bytes_u8(w_codes[code]), signs >> {{ 4 * j }}u);
  }
{% endfor %}
  let scale = (w_scales[at + 4u + k] >> (4u * (i & 7u))) & 15u;
  b.d = half_of(w_scales[at + 6u], k) * f32(1u + 2u * scale);
  b.m = 0.0;
  return b;
}
{% else %}
// File: f16 d, 64 bytes of low bits, 8 of ninth bits, 32 of signs, 4 of scales
fn repack(at: u32, i: u32) {
  let to = (i >> 1u) * 7u;
  for (var k = 0u; k < 2u; k++) {
    let src = at + k * 110u;
    for (var s = 0u; s < 8u; s++) {
      w_qs[(i + k) * 8u + s] = raw_vec2(src + 2u + 8u * s);
      w_signs[(i + k) * 8u + s] = raw_u32(src + 74u + 4u * s);
    }
    w_scales[to + 2u * k] = raw_u32(src + 66u);
    w_scales[to + 2u * k + 1u] = raw_u32(src + 70u);
    w_scales[to + 4u + k] = raw_u32(src + 106u);
  }
  w_scales[to + 6u] = raw_halves(at, 110u);
}
{% endif %}
