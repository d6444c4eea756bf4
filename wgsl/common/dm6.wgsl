// The plane dm of q4_k and q5_k: an f16 scale and minimum, two rows of 6-bit numbers that multiply them
fn scale_and_minimum(i: u32) -> vec2<f32> {
  let dm = w_dm[i >> 3u];
  let six = vec2<u32>(six_bits(dm.y, dm.w, i & 7u), six_bits(dm.z, dm.w >> 16u, i & 7u));
  return unpack2x16float(dm.x) * vec2<f32>(six);
}
{% if slots[0].name == "raw" %}
// File: f16 d, f16 dmin; 12 bytes: six bits of the scales of blocks 0 to 3, six of their minimums, four and four of
// those of blocks 4 to 7, whose upper bits fill the bytes before
fn raw_dm6(at: u32) -> vec4<u32> {
  let words = raw_vec4(at);
  var six = vec3<u32>(0u);
  for (var s = 0u; s < 4u; s++) {
    let first = words.yz >> vec2<u32>(8u * s);
    let low = vec2<u32>(words.w, words.w >> 4u) >> vec2<u32>(8u * s);
    six |= six_bits_of(first & vec2<u32>(63u), s);
    six |= six_bits_of((low & vec2<u32>(15u)) | ((first >> vec2<u32>(2u)) & vec2<u32>(48u)), s + 4u);
  }
  return vec4<u32>(words.x, six);
}
{% endif %}
