{# The cache of keys or values, `c` being "k" or "v": rows of `width` values, positions of one head side by side; where heads
   have fewer values than that, zeros lie behind them.
   Its format (kernels/cache.py) is a file of wgsl/cache/, of two macros:
   - load: c_eight(row, i), values 8 i to 8 i + 7 of a row;
   - store: c_put(row, i, at, write): rounds unit i of a row, which lies in `head` from `at` on, as the cache does; writes it
     if `write`, but for its scales, which it gives as a word;
     and c_scales(row, i, word), which writes these (formats with scales). Rows share vec4 of scales: where the cache is seen as
     vec4, one invocation writes the scales of a row, one after the other.
   cache_row(position): the row of a position, within a head's; with a ring of so many rows, it holds the last positions.
   unit, first: values a c_put takes, and the word where scales begin. words: the cache is bound as array<u32>, not as
   array<vec4<u32>>. #}
{% macro helpers(ring) %}
fn cache_row(position: u32) -> u32 { return position{{ " %% %du" % ring if ring }}; }
struct Eight { low: vec4<f32>, high: vec4<f32> }
fn signed_bytes(v: u32) -> vec4<f32> {
  return vec4<f32>(vec4<i32>(i32(v << 24u), i32(v << 16u), i32(v << 8u), i32(v)) >> vec4<u32>(24u));
}
fn bytes(v: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(v) >> vec4<u32>(0u, 8u, 16u, 24u)) & vec4<u32>(255u)); }
fn packed_bytes(v: vec4<i32>) -> u32 {
  let b = (bitcast<vec4<u32>>(v) & vec4<u32>(255u)) << vec4<u32>(0u, 8u, 16u, 24u);
  return b.x | b.y | b.z | b.w;
}
{% endmacro %}
{% macro store4(c, i, value, words) %}
{% if words %}
  let four = {{ value }};
  {{ c }}_cache[4u * ({{ i }})] = four.x;
  {{ c }}_cache[4u * ({{ i }}) + 1u] = four.y;
  {{ c }}_cache[4u * ({{ i }}) + 2u] = four.z;
  {{ c }}_cache[4u * ({{ i }}) + 3u] = four.w;
{% else %}
  {{ c }}_cache[{{ i }}] = {{ value }};
{% endif %}
{% endmacro %}
{% macro store_scales(c, width, unit, first, words) %}
fn {{ c }}_scales(row: u32, i: u32, word: u32) {
  let at = {{ first }}u + row * {{ width // unit }}u + i;
  {{ c }}_cache[{{ "at" if words else "at >> 2u][at & 3u" }}] = word;
}
{% endmacro %}
{% macro load_scale(c, width, unit, first) %}
fn {{ c }}_scale(row: u32, block: u32) -> f32 {
  let at = {{ first }}u + row * {{ width // unit }}u + {{ "(block >> 1u)" if unit == 64 else "block" }};
  return unpack2x16float({{ c }}_cache[at >> 2u][at & 3u]){{ "[block & 1u]" if unit == 64 else ".x" }};
}
{% endmacro %}
