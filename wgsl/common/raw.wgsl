// Bytes of the file as it is, from any byte offset
fn raw_u16(at: u32) -> u32 {
  return (raw[at >> 2u] >> ((at & 2u) * 8u)) & 0xffffu;
}

// at is even: every block of a quantized format begins at an even offset
fn raw_u32(at: u32) -> u32 {
  return raw_u16(at) | (raw_u16(at + 2u) << 16u);
}

fn raw_vec4(at: u32) -> vec4<u32> {
  return vec4<u32>(raw_u32(at), raw_u32(at + 4u), raw_u32(at + 8u), raw_u32(at + 12u));
}
