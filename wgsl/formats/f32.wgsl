fn load32(i: u32) -> Block {
  var b: Block;
  for (var j = 0u; j < 8u; j++) { b.q[j] = w_qs[i * 8u + j]; }
  b.d = 1.0;
  b.m = 0.0;
  return b;
}
