{% if slots[0].name != "raw" %}
{% include "common/grid.wgsl" %}
// Planes: of qs, the first word has four points of the grid, the second their signs and four bits of scale
fn load32(i: u32) -> Block {
  var b: Block;
  let v = w_qs[i];
{% for j in range(4) %}
  {
    let point = w_codes[(v.x >> {{ 8 * j }}u) & 255u];
    let signs = even_signs(v.y >> {{ 7 * j }}u);
    b.q[{{ 2 * j }}] = signed4(bytes_u8(point.x), signs);
    b.q[{{ 2 * j + 1 }}] = signed4(bytes_u8(point.y), signs >> 4u);
  }
{% endfor %}
  b.d = half_of(w_d[i >> 4u], i >> 3u) * (0.125 + 0.25 * f32(v.y >> 28u));
  b.m = 0.0;
  return b;
}
{% else %}
// File: f16 d, 8 bytes a block
fn repack(at: u32, i: u32) {
  for (var s = 0u; s < 16u; s++) { w_qs[i * 8u + s] = raw_vec2(at + s / 8u * 66u + 2u + 8u * (s % 8u)); }
  w_d[i >> 1u] = raw_halves(at, 66u);
}
{% endif %}
