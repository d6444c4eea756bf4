// Four words of nibbles in the order of the planes (low: weights 0 to 15 of a block of 32, high: 16 to 31), out of 32 bytes
// of the file from `at` on, which hold such a block in their low nibbles and another in their high ones.
fn k_low_nibbles(at: u32) -> vec4<u32> {
  let a = raw_vec4(at);
  let b = raw_vec4(at + 16u);
  return (a & vec4<u32>(0x0f0f0f0fu)) | ((b & vec4<u32>(0x0f0f0f0fu)) << vec4<u32>(4u));
}
fn k_high_nibbles(at: u32) -> vec4<u32> {
  let a = raw_vec4(at);
  let b = raw_vec4(at + 16u);
  return ((a >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu)) | (b & vec4<u32>(0xf0f0f0f0u));
}
