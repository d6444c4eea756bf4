// Four values with signs: bit k of s for value k
fn signed4(v: vec4<f32>, s: u32) -> vec4<f32> {
  return select(v, -v, (vec4<u32>(s) & vec4<u32>(1u, 2u, 4u, 8u)) != vec4<u32>(0u));
}
// Eight signs out of seven bits: the last makes their number even
fn even_signs(v: u32) -> u32 {
  let seven = v & 127u;
  return seven | ((countOneBits(seven) & 1u) << 7u);
}
