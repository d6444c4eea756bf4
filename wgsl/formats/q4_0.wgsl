{% import "common/nibbles.wgsl" as n %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{{ n.nibbles() }}
  b.d = half_of(w_d[i >> 1u], i);
  b.m = -8.0 * b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, 16 bytes of nibbles
fn repack(pair: u32, first: u32) {
  let at = pair * 36u;
  let i = first + 2u * pair;
  w_qs[i] = raw_vec4(at + 2u);
  w_qs[i + 1u] = raw_vec4(at + 20u);
  w_d[i >> 1u] = raw_u16(at) | (raw_u16(at + 18u) << 16u);
}
{% endif %}
