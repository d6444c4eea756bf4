// A bf16 is the upper half of a float32
fn bf16_pair(v: u32) -> vec2<f32> { return bitcast<vec2<f32>>(vec2<u32>(v << 16u, v & 0xffff0000u)); }

fn load32(i: u32) -> Block {
  var b: Block;
{% for j in range(4) %}
  {
    let v = w_qs[i * 4u + {{ j }}u];
    b.q[{{ 2 * j }}] = vec4<f32>(bf16_pair(v.x), bf16_pair(v.y));
    b.q[{{ 2 * j + 1 }}] = vec4<f32>(bf16_pair(v.z), bf16_pair(v.w));
  }
{% endfor %}
  b.d = 1.0;
  b.m = 0.0;
  return b;
}
