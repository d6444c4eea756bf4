// Four weights whose codes of 4 bits are in the bytes of v
fn coded(v: u32) -> vec4<f32> {
  return vec4<f32>(w_codes[v & 15u], w_codes[(v >> 8u) & 15u], w_codes[(v >> 16u) & 15u], w_codes[(v >> 24u) & 15u]);
}
