{% import "common/nibbles.wgsl" as n %}
{% include "common/k_scales.wgsl" %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i];
{{ n.nibbles5() }}
  let dm = k_scale_min(w_scales[i >> 3u], i & 7u);
  b.d = dm.x;
  b.m = -dm.y;
  return b;
}
{% if slots[0].name == "raw" %}
{% include "common/k_quants.wgsl" %}
// File: f16 d, f16 dmin, 12 bytes of scales, 32 bytes whose bits s are the fifth bits of block s, 128 bytes of nibbles
fn repack(pair: u32, first: u32) {
  for (var k = 0u; k < 2u; k++) {
    let at = (2u * pair + k) * 176u;
    let i = first + 2u * pair + k;
    w_scales[i] = raw_vec4(at);
    for (var s = 0u; s < 8u; s++) {
      var bits = 0u;
      for (var j = 0u; j < 8u; j++) {
        let word = raw_u32(at + 16u + 4u * j) >> s;
        bits |= ((word & 1u) | ((word >> 7u) & 2u) | ((word >> 14u) & 4u) | ((word >> 21u) & 8u)) << (4u * j);
      }
      w_qh[i * 8u + s] = bits;
    }
    for (var c = 0u; c < 4u; c++) {
      w_qs[i * 8u + 2u * c] = k_low_nibbles(at + 48u + 32u * c);
      w_qs[i * 8u + 2u * c + 1u] = k_high_nibbles(at + 48u + 32u * c);
    }
  }
}
{% endif %}
