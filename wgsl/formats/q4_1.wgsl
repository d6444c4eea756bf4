{% import "common/unpack.wgsl" as u %}
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(8) %}
  b.q[{{ j }}] = bytes_u8({{ u.nibbles("v", j) }});
{% endfor %}
  let dm = unpack2x16float(w_dm[i]);
  b.d = dm.x;
  b.m = dm.y;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, f16 m, 16 bytes of nibbles
fn repack(at: u32, i: u32) {
  w_dm[i] = raw_u32(at);
  w_qs[i] = raw_vec4(at + 4u);
}
{% endif %}
