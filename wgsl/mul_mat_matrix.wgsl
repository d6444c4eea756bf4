{% import "common/mat_product.wgsl" as product with context %}
{% set m = matrix.m %}
{% set n_matrix = matrix.n %}
{% set component = matrix.component %}
{% set rows_m = tile_m // wy // m %}
{% set rows_n = tile_n // wx // n_matrix %}
{% set pitch = 32 + (8 if component == "f16" else 4) %}
{% set left = "subgroup_matrix_left<%s, %d, %d>" % (component, matrix.k, m) %}
{% set right = "subgroup_matrix_right<%s, %d, %d>" % (component, n_matrix, matrix.k) %}
{% set sums = "subgroup_matrix_result<%s, %d, %d>" % (matrix.result, n_matrix, m) %}
// As mul_mat, with the matrix units of the subgroups: each of {{ wx }} x {{ wy }} subgroups holds {{ rows_m }} x {{ rows_n }} matrices of {{ m }} tokens x {{ n_matrix }} rows.
enable subgroups;
enable chromium_experimental_subgroup_matrix;
{% if "f16" in (component, matrix.result) %}
enable f16;
{% endif %}
diagnostic(off, chromium.subgroup_matrix_uniformity);
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
const INVOCATIONS = {{ wx * wy * subgroup }}u;
const PITCH = {{ pitch }}u;

var<workgroup> tile_x: array<{{ component }}, {{ tile_m * pitch }}>;  // [token][column]
var<workgroup> tile_w: array<{{ component }}, {{ tile_n * pitch }}>;  // [row][column]
var<workgroup> found: array<{{ matrix.result }}, {{ wx * wy * m * n_matrix * (2 if product.glu else 1) }}>;  // one matrix of each subgroup

@compute @workgroup_size({{ wx * wy * subgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let n_tokens = batch[{{ io.n_tokens }}u];
  let t0 = group.y * {{ tile_m }}u;
  let o0 = group.x * TILE_OUT;
  let lane = local % {{ subgroup }}u;
  let mine = local / {{ subgroup }}u;
  let at_x = mine / {{ wx }}u * {{ m }}u;  // the first token and row of its matrices; the next ones are {{ wy }} and {{ wx }} matrices on
  let at_w = mine % {{ wx }}u * {{ n_matrix }}u;
{% for i in range(rows_m) %}
{% for j in range(rows_n) %}
  var acc{{ i }}_{{ j }}: {{ sums }};
{% endfor %}
{% endfor %}
  for (var b = 0u; b < NB; b++) {
    for (var i = local; i < {{ 8 * tile_m }}u; i += INVOCATIONS) {
      var v = vec4<f32>(0.0);
      if ({{ product.there("i / 8u") }}) {
{{ product.load("i / 8u", "b", "i % 8u") }}      }
      let at = i / 8u * PITCH + i % 8u * 4u;
{% for c in range(4) %}
      tile_x[at + {{ c }}u] = {{ component }}(v[{{ c }}]);
{% endfor %}
    }
    for (var i = local; i < {{ tile_n }}u; i += INVOCATIONS) {
      let w = load32(({{ product.row("i") }}) * NB + b);
{% for j in range(8) %}
      {
        let v = {{ w.part("w.d", j) }} * w.q[{{ j }}] + {{ w.part("w.m", j) }};
{% for c in range(4) %}
        tile_w[i * PITCH + {{ 4 * j + c }}u] = {{ component }}(v[{{ c }}]);
{% endfor %}
      }
{% endfor %}
    }
    workgroupBarrier();
{% for c in range(0, 32, matrix.k) %}
    {
{% for j in range(rows_n) %}
      let w{{ j }} = subgroupMatrixLoad<{{ right }}, col_major>(&tile_w, (at_w + {{ j * wx * n_matrix }}u) * PITCH + {{ c }}u, PITCH);
{% endfor %}
{% for i in range(rows_m) %}
      let x{{ i }} = subgroupMatrixLoad<{{ left }}, row_major>(&tile_x, (at_x + {{ i * wy * m }}u) * PITCH + {{ c }}u, PITCH);
{% for j in range(rows_n) %}
      acc{{ i }}_{{ j }} = subgroupMatrixMultiplyAccumulate(x{{ i }}, w{{ j }}, acc{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
    }
{% endfor %}
    workgroupBarrier();
  }
{% set size = m * n_matrix %}
{% set halves = rows_n // 2 if product.glu else rows_n %}
  let begin = mine * {{ size * (2 if product.glu else 1) }}u;
{% for i in range(rows_m) %}
{% for j in range(halves) %}
  subgroupMatrixStore<row_major>(&found, begin, acc{{ i }}_{{ j }}, {{ n_matrix }}u);
{% if product.glu %}
  subgroupMatrixStore<row_major>(&found, begin + {{ size }}u, acc{{ i }}_{{ j + halves }}, {{ n_matrix }}u);
{% endif %}
  workgroupBarrier();
  for (var e = lane; e < {{ size }}u; e += {{ subgroup }}u) {
    let t = t0 + at_x + {{ i * wy * m }}u + e / {{ n_matrix }}u;
    let o = o0 + at_w + {{ j * wx * n_matrix }}u + e % {{ n_matrix }}u;
    if (t < n_tokens && o < OUT) {
{{ product.store("f32(found[begin + e])", "f32(found[begin + %du + e])" % size) }}    }
  }
  workgroupBarrier();
{% endfor %}
{% endfor %}
}
