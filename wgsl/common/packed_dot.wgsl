{% if packed_dot %}
requires packed_4x8_integer_dot_product;
{% else %}
// For devices whose WGSL lacks these
fn signed_bytes(v: u32) -> vec4<i32> {
  return vec4<i32>(i32(v << 24u), i32(v << 16u), i32(v << 8u), i32(v)) >> vec4<u32>(24u);
}
fn dot4I8Packed(a: u32, b: u32) -> i32 { return dot(signed_bytes(a), signed_bytes(b)); }
fn pack4xI8(v: vec4<i32>) -> u32 {
  let b = vec4<u32>(v) & vec4<u32>(0xffu);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
{% endif %}
