{% import "common/nibbles.wgsl" as n %}
{% include "common/k_scales.wgsl" %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{{ n.nibbles() }}
  let dm = k_scale_min(w_scales[i >> 3u], i & 7u);
  b.d = dm.x;
  b.m = -dm.y;
  return b;
}
{% if slots[0].name == "raw" %}
{% include "common/k_quants.wgsl" %}
// File: f16 d, f16 dmin, 12 bytes of scales, 128 bytes of nibbles
fn repack(pair: u32, first: u32) {
  for (var k = 0u; k < 2u; k++) {
    let at = (2u * pair + k) * 144u;
    let i = first + 2u * pair + k;
    w_scales[i] = raw_vec4(at);
    for (var c = 0u; c < 4u; c++) {
      w_qs[i * 8u + 2u * c] = k_low_nibbles(at + 16u + 32u * c);
      w_qs[i * 8u + 2u * c + 1u] = k_high_nibbles(at + 16u + 32u * c);
    }
  }
}
{% endif %}
