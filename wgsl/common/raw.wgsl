// Bytes of the file as it is, from any byte offset
fn raw_u32(at: u32) -> u32 {
  let shift = (at & 3u) * 8u;
  let low = raw[at >> 2u] >> shift;
  if (shift == 0u) { return low; }
  return low | (raw[(at >> 2u) + 1u] << (32u - shift));
}

fn raw_u16(at: u32) -> u32 { return raw_u32(at) & 0xffffu; }

fn raw_u8(at: u32) -> u32 { return (raw[at >> 2u] >> ((at & 3u) * 8u)) & 0xffu; }

fn raw_vec2(at: u32) -> vec2<u32> { return vec2<u32>(raw_u32(at), raw_u32(at + 4u)); }

fn raw_vec4(at: u32) -> vec4<u32> { return vec4<u32>(raw_vec2(at), raw_vec2(at + 8u)); }

// Two f16, those of this block and of the next one, as one word
fn raw_halves(at: u32, block_bytes: u32) -> u32 { return raw_u16(at) | (raw_u16(at + block_bytes) << 16u); }

// 32 bytes of the file hold, at the same bits of all, one number of each of 32 weights; these give them in the orders
// of the planes (kernels/formats.py): number j of 4 bits, of 2 bits, of one bit.
fn raw_nibbles(at: u32, j: u32) -> vec4<u32> {
  let low = raw_vec4(at) >> vec4<u32>(4u * j);
  let high = raw_vec4(at + 16u) >> vec4<u32>(4u * j);
  return (low & vec4<u32>(0x0f0f0f0fu)) | ((high & vec4<u32>(0x0f0f0f0fu)) << vec4<u32>(4u));
}

fn raw_crumbs(at: u32, j: u32) -> vec2<u32> {
  var v = vec2<u32>(0u);
  for (var k = 0u; k < 4u; k++) {
    let words = vec2<u32>(raw_u32(at + 4u * k), raw_u32(at + 16u + 4u * k)) >> vec2<u32>(2u * j);
    v |= (words & vec2<u32>(0x03030303u)) << vec2<u32>(2u * k);
  }
  return v;
}

fn raw_bits(at: u32, j: u32) -> u32 {
  var v = 0u;
  for (var k = 0u; k < 8u; k++) { v |= ((raw_u32(at + 4u * k) >> j) & 0x01010101u) << k; }
  return v;
}

// 32 bits that lie one weight after the other
fn raw_bits_in_a_row(at: u32) -> u32 {
  let bits = raw_u32(at);
  var v = 0u;
  for (var k = 0u; k < 8u; k++) {
    let four = bits >> (4u * k);
    v |= ((four & 1u) | ((four & 2u) << 7u) | ((four & 4u) << 14u) | ((four & 8u) << 21u)) << k;
  }
  return v;
}

// 32 numbers of 2 bits that lie one weight after the other
fn raw_crumbs_in_a_row(at: u32) -> vec2<u32> {
  let crumbs = raw_vec2(at);
  var v = vec2<u32>(0u);
  for (var j = 0u; j < 4u; j++) {
    let four = crumbs >> vec2<u32>(8u * j);
    for (var k = 0u; k < 4u; k++) { v |= ((four >> vec2<u32>(2u * k)) & vec2<u32>(3u)) << vec2<u32>(8u * k + 2u * j); }
  }
  return v;
}

// Number s of two rows of eight 6-bit numbers: where its bits go in three words (low bits of the one row, low bits of
// the other, the upper bits of both)
fn six_bits_of(pair: vec2<u32>, s: u32) -> vec3<u32> {
  let high = (pair.x >> 4u) | ((pair.y >> 4u) << 16u);
  return vec3<u32>((pair & vec2<u32>(15u)) << vec2<u32>(4u * s), high << (2u * s));
}
