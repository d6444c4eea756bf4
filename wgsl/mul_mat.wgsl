{% import shared if shared is defined else "common/mat_product.wgsl" as product with context %}
{% import "common/tile_results.wgsl" as tile with context %}
{% set tm = tile_m // wy %}
{% set tn = tile_n // wx %}
{% set real = "f16" if half else "f32" %}
// Y = X W^T for a batch of tokens: a workgroup computes a tile of {{ tile_m }} tokens x {{ tile_n }} rows of W, 32 columns at a time
// through workgroup memory; an invocation holds {{ tm }} x {{ tn }} results in registers. Epilogues as in mul_mat_vec.
{% if half %}
// Products of four are computed in f16, and added up in f32.
enable f16;
{% endif %}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
var<workgroup> tile_x: array<vec4<{{ real }}>, {{ 8 * tile_m }}>;  // [column / 4][token]
var<workgroup> tile_w: array<vec4<{{ real }}>, {{ 8 * tile_n }}>;  // [column / 4][row]

{{ product.begin() }}  for (var b = 0u; b < NB; b++) {
    for (var i = local; i < {{ 8 * tile_m }}u; i += {{ wx * wy }}u) {
      var v = vec4<f32>(0.0);
      if ({{ product.there("i / 8u") }}) {
{{ product.load("i / 8u", "b", "i % 8u") }}      }
      tile_x[(i % 8u) * {{ tile_m }}u + i / 8u] = vec4<{{ real }}>(v);
    }
    for (var i = local; i < {{ tile_n }}u; i += {{ wx * wy }}u) {
      let w = load32(({{ product.row("i") }}) * NB + b);
{% for j in range(8) %}
      tile_w[{{ j * tile_n }}u + i] = vec4<{{ real }}>({{ w.part("w.d", j) }} * w.q[{{ j }}] + {{ w.part("w.m", j) }});
{% endfor %}
    }
    workgroupBarrier();
    for (var c = 0u; c < 8u; c++) {
{% for j in range(tn) %}
      let w{{ j }} = tile_w[c * {{ tile_n }}u + id.x + {{ wx * j }}u];
{% endfor %}
{% for i in range(tm) %}
      if ({{ i }}u < used) {
        let v = tile_x[c * {{ tile_m }}u + id.y + {{ wy * i }}u];
{% for j in range(tn) %}
        acc[{{ i * tn + j }}] += {{ "f32(dot(v, w%d))" % j if half else "dot(v, w%d)" % j }};
{% endfor %}
      }
{% endfor %}
    }
    workgroupBarrier();
  }
{{ tile.results() }}}
