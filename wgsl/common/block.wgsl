// 32 weights: weight j is d * q[j / 4][j % 4] + m; with `split`, the first and the last 16 have a d and an m each.
// With `packed`, four of q stay bytes, for the packed integer dot.
{% if split %}
alias Scale = vec2<f32>;
{% else %}
alias Scale = f32;
{% endif %}
{% if packed is defined %}
alias Four = u32;
fn bytes_u8(v: u32) -> Four { return v; }
fn bytes_i8(v: u32) -> Four { return v; }
{% else %}
alias Four = vec4<f32>;
fn bytes_u8(v: u32) -> Four {
  return vec4<f32>(vec4<u32>(v, v >> 8u, v >> 16u, v >> 24u) & vec4<u32>(0xffu));
}
fn bytes_i8(v: u32) -> Four {
  return vec4<f32>(vec4<i32>(i32(v << 24u), i32(v << 16u), i32(v << 8u), i32(v)) >> vec4<u32>(24u));
}
{% endif %}
struct Block { q: array<Four, 8>, d: Scale, m: Scale }
{# The scale or minimum, `v`, of four weights `j` #}
{% macro part(v, j) %}{{ v }}{{ "." ~ "xy"[j // 4] if split }}{% endmacro %}

// Half i of an array of f16 packed two a word, given its word
fn half_of(word: u32, i: u32) -> f32 {
  let pair = unpack2x16float(word);
  return select(pair.x, pair.y, (i & 1u) == 1u);
}

// Number s of a row of eight 6-bit numbers: its low four bits and its upper two
fn six_bits(low: u32, high: u32, s: u32) -> u32 {
  return ((low >> (4u * s)) & 15u) | (((high >> (2u * s)) & 3u) << 4u);
}
