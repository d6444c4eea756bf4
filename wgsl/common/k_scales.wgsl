// Scale and minimum of block s (0 to 7) of a superblock, out of its f16 pair and twelve bytes of six-bit numbers:
// those of blocks 0 to 3 lie in the low bits of bytes 0 to 7, the others' in bytes 8 to 11 and the bits left over.
fn k_scale_min(word: vec4<u32>, s: u32) -> vec2<f32> {
  let shift = 8u * (s & 3u);
  let low = vec2<u32>(word.y, word.z) >> vec2<u32>(shift);
  var bits = low & vec2<u32>(63u);
  if (s >= 4u) {
    bits = ((vec2<u32>(word.w, word.w >> 4u) >> vec2<u32>(shift)) & vec2<u32>(15u)) | ((low >> vec2<u32>(2u)) & vec2<u32>(48u));
  }
  return unpack2x16float(word.x) * vec2<f32>(bits);
}
