{% import "common/nibbles.wgsl" as n %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
  let h = w_qh[i];
{{ n.nibbles5() }}
  b.d = half_of(w_d[i >> 1u], i);
  b.m = -16.0 * b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, 4 bytes of fifth bits, 16 bytes of nibbles
fn repack(pair: u32, first: u32) {
  let at = pair * 44u;
  let i = first + 2u * pair;
  w_qh[i] = raw_u32(at + 2u);
  w_qh[i + 1u] = raw_u32(at + 24u);
  w_qs[i] = raw_vec4(at + 6u);
  w_qs[i + 1u] = raw_vec4(at + 28u);
  w_d[i >> 1u] = raw_u16(at) | (raw_u16(at + 22u) << 16u);
}
{% endif %}
