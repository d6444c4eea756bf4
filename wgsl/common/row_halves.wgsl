{# Rows of x as halves.wgsl leaves them in x_q, of so many `numbers` in all: the scale of row t, and vec4 c of a block of it
   that begins at vector `at` #}
{% macro declare(numbers) %}
const SCALES = {{ numbers // 8 }}u;
fn scale_of(t: u32) -> f32 { return bitcast<f32>(x_q[SCALES + t / 4u][t % 4u]); }
fn four_of(t: u32, at: u32, c: u32) -> vec4<f32> {
  let eight = x_q[at + c / 2u];
  let four = select(eight.xy, eight.zw, c % 2u == 1u);
  return scale_of(t) * vec4<f32>(unpack2x16float(four.x), unpack2x16float(four.y));
}
{% endmacro %}
