{% import "common/nibbles.wgsl" as n %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{{ n.nibbles() }}
  let dm = unpack2x16float(w_dm[i]);
  b.d = dm.x;
  b.m = dm.y;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, f16 m, 16 bytes of nibbles
fn repack(pair: u32, first: u32) {
  for (var k = 0u; k < 2u; k++) {
    let at = (2u * pair + k) * 20u;
    let i = first + 2u * pair + k;
    w_qs[i] = raw_vec4(at + 4u);
    w_dm[i] = raw_u32(at);
  }
}
{% endif %}
