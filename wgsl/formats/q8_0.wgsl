fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[2u * i];
  let w = w_qs[2u * i + 1u];
{% for j in range(4) %}
  b.q[{{ j }}] = bytes_i8(v.{{ "xyzw"[j] }});
  b.q[{{ j + 4 }}] = bytes_i8(w.{{ "xyzw"[j] }});
{% endfor %}
  b.d = half_of(w_d[i >> 1u], i);
  b.m = 0.0;
  return b;
}
{% if slots[0].name == "raw" %}
// File: f16 d, 32 bytes
fn repack(at: u32, i: u32) {
  w_qs[2u * i] = raw_vec4(at + 2u);
  w_qs[2u * i + 1u] = raw_vec4(at + 18u);
  w_qs[2u * i + 2u] = raw_vec4(at + 36u);
  w_qs[2u * i + 3u] = raw_vec4(at + 52u);
  w_d[i >> 1u] = raw_halves(at, 34u);
}
{% endif %}
