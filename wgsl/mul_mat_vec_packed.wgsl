// y = W x for one token, as mul_mat_vec, with the packed 4x8-bit integer dot. Every workgroup first turns x into integers
// of 16 bits, a scale for each 32 of them, as two planes of bytes: x = d * (256 * high + low). So a product of weights
// that are bytes costs two integer dots for four of them, and is as exact as float32 to about 1e-9.
{% import "common/vec_product.wgsl" as product with context %}
{% import "common/reduce.wgsl" as r %}
{% set packed = true %}
enable subgroups;
requires packed_4x8_integer_dot_product;
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
const CHUNK = {{ chunk }}u;  // blocks of x that workgroup memory holds
const WG = {{ workgroup }}u;

// [a quarter of the block's bytes][block]: first the high bytes, then the low ones
var<workgroup> quarters: array<vec4<u32>, {{ 4 * chunk }}>;
var<workgroup> scales: array<vec{{ 3 if split else 2 }}<f32>, {{ chunk }}>;  // d, and sums of d * x over the block {{ "or its halves" if split }}
{% if norm %}
var<workgroup> squares: array<f32, {{ workgroup // subgroup }}>;
{% endif %}
{{ r.declare(subgroup, workgroup, lanes, rows_per_group) }}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
{{ product.rows() }}{{ product.begin() }}  var acc: array<f32, {{ rows_per_group }}>;
  var square = 0.0;
  for (var first = 0u; first < NB; first += CHUNK) {
    let count = min(CHUNK, NB - first);
{% if chunk < k // 32 %}
    workgroupBarrier();
{% endif %}
    for (var i = local; i < count; i += WG) {
      let b = first + i;
{{ product.input("group.x + group.y == 0u") }}{% if norm %}
      square += {% for j in range(8) %}dot(a{{ j }}, a{{ j }}){{ " + " if not loop.last }}{% endfor %};
{% for j in range(8) %}
      a{{ j }} *= norm_weight[{{ j }}u * NB + b];
{% endfor %}
{% endif %}
      var top = abs(a0);
{% for j in range(1, 8) %}
      top = max(top, abs(a{{ j }}));
{% endfor %}
      let largest = max(max(top.x, top.y), max(top.z, top.w));
      let d = largest / 32512.0;
      let inverse = select(0.0, 32512.0 / largest, largest > 0.0);
{% for j in range(8) %}
      let q{{ j }} = vec4<i32>(round(a{{ j }} * inverse));
      let h{{ j }} = (q{{ j }} + 128) >> vec4<u32>(8u);
{% endfor %}
{% for part in range(2) %}
      quarters[{{ part * chunk }}u + i] = vec4<u32>({% for j in range(4) %}pack4xI8(h{{ 4 * part + j }}){{ ", " if not loop.last }}{% endfor %});
      quarters[{{ (2 + part) * chunk }}u + i] = vec4<u32>({% for j in range(4) %}pack4xI8(q{{ 4 * part + j }}){{ ", " if not loop.last }}{% endfor %});
{% endfor %}
      let s0 = q0 + q1 + q2 + q3;
      let s1 = q4 + q5 + q6 + q7;
{% if split %}
      scales[i] = vec3<f32>(d, d * f32(s0.x + s0.y + s0.z + s0.w), d * f32(s1.x + s1.y + s1.z + s1.w));
{% else %}
      let s = s0 + s1;
      scales[i] = vec2<f32>(d, d * f32(s.x + s.y + s.z + s.w));
{% endif %}
    }
{% if norm %}
    if (first + CHUNK >= NB) {
      let sum = subgroupAdd(square);
      if (local % {{ subgroup }}u == 0u) { squares[local / {{ subgroup }}u] = sum; }
    }
{% endif %}
    workgroupBarrier();
{% macro half(w, part) %}
(({% for j in range(4) %}dot4I8Packed({{ w }}.q[{{ 4 * part + j }}], c{{ part }}.{{ "xyzw"[j] }}){{ " + " if not loop.last }}{% endfor %}) << 8u)
          + {% for j in range(4) %}dot4I8Packed({{ w }}.q[{{ 4 * part + j }}], c{{ 2 + part }}.{{ "xyzw"[j] }}){{ " + " if not loop.last }}{% endfor %}
{% endmacro %}
{% call(w) product.each_block("at", "count", "first + ") %}
{% for part in range(4) %}
        let c{{ part }} = quarters[{{ part * chunk }}u + at];
{% endfor %}
        let scale = scales[at];
{% for r in range(rows_per_group) %}
        {
          let p0 = {{ half(w ~ r, 0) }};
          let p1 = {{ half(w ~ r, 1) }};
{% if split %}
          acc[{{ r }}] += scale.x * dot({{ w ~ r }}.d, vec2<f32>(vec2<i32>(p0, p1))) + dot({{ w ~ r }}.m, scale.yz);
{% else %}
          acc[{{ r }}] += {{ w ~ r }}.d * scale.x * f32(p0 + p1) + {{ w ~ r }}.m * scale.y;
{% endif %}
        }
{% endfor %}
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
