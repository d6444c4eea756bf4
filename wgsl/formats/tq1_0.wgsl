// Planes: qs has 13 words a superblock, as the file has them: five weights a byte, four in the last word. Weight n of a
// byte is the first digit, to base 3, of the byte times 3^n, a fraction of 256.
fn trits(v: u32, n: u32) -> Four {
  let power = select(81u, (0x1b090301u >> (8u * n)) & 255u, n < 4u);
  let even = (((v & 0x00ff00ffu) * power) & 0x00ff00ffu) * 3u;
  let odd = ((((v >> 8u) & 0x00ff00ffu) * power) & 0x00ff00ffu) * 3u;
  return bytes_u8(((even >> 8u) & 0x00ff00ffu) | (odd & 0xff00ff00u));
}
fn load32(i: u32) -> Block {
  var b: Block;
  for (var j = 0u; j < 8u; j++) {
    // Which vec4 of the superblock: 40 of 8 words, 20 of 4 words, 4 of one
    let g = (i & 7u) * 8u + j;
    var at = vec2<u32>(g & 7u, g >> 3u);
    if (g >= 40u) { at = vec2<u32>(8u + (g & 3u), (g - 40u) >> 2u); }
    if (g >= 60u) { at = vec2<u32>(12u, g - 60u); }
    b.q[j] = trits(w_qs[(i >> 3u) * 13u + at.x], at.y);
  }
  b.d = half_of(w_d[i >> 4u], i >> 3u);
  b.m = -b.d;
  return b;
}
{% if slots[0].name == "raw" %}
// File: 52 bytes of weights, f16 d
fn repack(at: u32, i: u32) {
  for (var k = 0u; k < 2u; k++) {
    for (var j = 0u; j < 13u; j++) { w_qs[(i + k) * 13u + j] = raw_u32(at + k * 54u + 4u * j); }
  }
  w_d[i >> 1u] = raw_halves(at + 52u, 54u);
}
{% endif %}
