fn load32(i: u32) -> Block {
  var b: Block;
{% for j in range(4) %}
  {
    let v = w_qs[i * 4u + {{ j }}u];
    b.q[{{ 2 * j }}] = vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y));
    b.q[{{ 2 * j + 1 }}] = vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w));
  }
{% endfor %}
  b.d = 1.0;
  b.m = 0.0;
  return b;
}
