// y = W x for one token, as mul_mat_vec, with the packed 4x8-bit integer dot. Every workgroup first turns x into integers
// of 16 bits, a scale for each 32 of them, as two planes of bytes: x = d * (256 * high + low). So a product of weights
// that are bytes costs two integer dots for four of them, and is as exact as float32 to about 1e-9.
{% import "common/vec_product.wgsl" as product with context %}
{% import "common/reduce.wgsl" as r %}
{% import "common/packed_block.wgsl" as dot %}
{% set packed = true %}
{% set together = 2 if norm or post_eps is not none or center_eps is not none else 1 %}
enable subgroups;
{% if together == 2 %}
diagnostic(off, subgroup_uniformity);
{% endif %}
requires packed_4x8_integer_dot_product;
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
const CHUNK = {{ chunk }}u;  // blocks of x that workgroup memory holds

{{ dot.declare(chunk, split) }}{% if norm %}
var<workgroup> squares: array<f32, {{ workgroup // subgroup }}>;
{% endif %}
{{ r.declare(subgroup, workgroup, lanes, rows_per_group) }}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
{{ product.rows() }}{{ product.begin() }}  var acc: array<f32, {{ rows_per_group }}>;
  var square = 0.0;
  for (var first = 0u; first < NB; first += CHUNK) {
    let count = min(CHUNK, NB - first);
{{ product.ahead_of_input("count", "first + ") }}{% if chunk < k // 32 %}
    workgroupBarrier();
{% endif %}
{% call(numbers) dot.pack("count", chunk, split, workgroup, together) %}
      let b = first + i;
{{ product.input("group.x + group.y == 0u", numbers) }}{% if norm %}
{{ product.normed("square", numbers) }}{% endif %}
{% endcall %}
{% if norm %}
    if (first + CHUNK >= NB) {
      let sum = subgroupAdd(square);
      if (local % {{ subgroup }}u == 0u) { squares[local / {{ subgroup }}u] = sum; }
    }
{% endif %}
    workgroupBarrier();
{% call(w) product.each_block("at", "count", "first + ") %}
{{ dot.get(chunk, "at") }}{% for r in range(rows_per_group) %}
{{ dot.add(r, w ~ r, split) }}{% endfor %}
{% endcall %}
  }
{{ r.sum(subgroup, workgroup, lanes, rows_per_group) }}
  if (lane == 0u) {
{% if norm %}
    var sum = 0.0;
    for (var s = 0u; s < {{ workgroup // subgroup }}u; s++) { sum += squares[s]; }
    let scale = inverseSqrt(sum / {{ columns }}.0 + {{ eps }});
{% else %}
    let scale = 1.0;
{% endif %}
{{ product.results() }}  }
}
