// 32 weights: weight j is d * q[j / 4][j % 4] + m
struct Block { q: array<vec4<f32>, 8>, d: f32, m: f32 }

fn bytes_u8(v: u32) -> vec4<f32> {
  return vec4<f32>(vec4<u32>(v, v >> 8u, v >> 16u, v >> 24u) & vec4<u32>(0xffu));
}

fn bytes_i8(v: u32) -> vec4<f32> {
  return vec4<f32>(vec4<i32>(i32(v << 24u), i32(v << 16u), i32(v << 8u), i32(v)) >> vec4<u32>(24u));
}

// Four nibbles of v, the low ones of its bytes or the high ones
fn low4(v: u32) -> vec4<f32> { return bytes_u8(v & 0x0f0f0f0fu); }
fn high4(v: u32) -> vec4<f32> { return bytes_u8((v >> 4u) & 0x0f0f0f0fu); }

// Bits 0 to 3 of v, moved to bit 4 of four bytes
fn fifth_bits(v: u32) -> u32 {
  return ((v & 1u) << 4u) | ((v & 2u) << 11u) | ((v & 4u) << 18u) | ((v & 8u) << 25u);
}

// Half i of an array of f16 packed two a word, given its word
fn half_of(word: u32, i: u32) -> f32 {
  let pair = unpack2x16float(word);
  return select(pair.x, pair.y, (i & 1u) == 1u);
}
