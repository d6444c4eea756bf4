{% import shared if shared is defined else "common/mat_product.wgsl" as product with context %}
{% set m = matrix.m %}
{% set n_matrix = matrix.n %}
{% set component = matrix.component %}
{% set rows_m = tile_m // wy // m %}
{% set rows_n = tile_n // wx // n_matrix %}
{% set invocations = wx * wy * subgroup %}
{% set per = 8 if halves else 4 %}{# numbers of a vector of 16 bytes #}
{% set across = 32 * depth // per %}{# vectors of a row that a step has #}
{% set pitch = across + 1 %}{# so that rows lie in different banks #}
{% set loads_x = (tile_m * across + invocations - 1) // invocations %}
{% set loads_w = (tile_n * depth + invocations - 1) // invocations %}
{% set size = m * n_matrix // 4 %}{# vectors of a matrix of results #}
{% set of_subgroup = size * (2 if product.glu else 1) %}
{% set left = "subgroup_matrix_left<%s, %d, %d>" % (component, matrix.k, m) %}
{% set right = "subgroup_matrix_right<%s, %d, %d>" % (component, n_matrix, matrix.k) %}
{% set sums = "subgroup_matrix_result<%s, %d, %d>" % (matrix.result, n_matrix, m) %}
// As mul_mat, with the matrix units of the subgroups{{ ", which take f16: x_q has halves (halves.wgsl)" if halves }}: each of {{ wx }} x {{ wy }} subgroups holds {{ rows_m }} x {{ rows_n }} matrices of {{ m }} tokens x {{ n_matrix }} rows.
// A step is {{ depth }} blocks of 32 columns; while one is computed out of workgroup memory, the next one is on its way into
// registers.
enable subgroups;
enable chromium_experimental_subgroup_matrix;
{% if halves %}
enable f16;
{% endif %}
diagnostic(off, chromium.subgroup_matrix_uniformity);
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
const DEPTH = {{ depth }}u;
const ACROSS = {{ across }}u;
const PITCH = {{ pitch }}u;
const W_AT = {{ tile_m * pitch }}u;

// {{ per }} numbers a vector: [token][column], behind them [row of W][column]; at the end a matrix of results of each subgroup
var<workgroup> tile: array<vec4<u32>, {{ [(tile_m + tile_n) * pitch, wx * wy * of_subgroup] | max }}>;

{# Leaves numbers of a and b, vec4<f32>, there #}
{% macro put(at, a, b) %}
{% if halves %}
      tile[{{ at }}] = vec4<u32>(pack2x16float({{ a }}.xy), pack2x16float({{ a }}.zw), pack2x16float({{ b }}.xy), pack2x16float({{ b }}.zw));
{% else %}
      tile[{{ at }}] = bitcast<vec4<u32>>({{ a }});
{% endif %}
{% endmacro %}
{# The rows of a step whose first block is `first`, into registers #}
{% macro fetch(first, declare) %}
{% for p in range(loads_w) %}
  {{ declare }}w{{ p }} = load32(row_w{{ p }} * NB + min({{ first }} + block_w{{ p }}, NB - 1u));
{% endfor %}
{% for p in range(loads_x) %}
{% if halves %}
  {{ declare }}x{{ p }} = x_q[({{ product.codes(p, "min(%s + block_x%d, NB - 1u)" % (first, p)) }}) * 4u + vec_x{{ p }}];
{% else %}
  {
    var v = vec4<f32>(0.0);
    let b = {{ first }} + block_x{{ p }};
    if ({{ product.there("slot_x%d" % p) }} && b < NB) {
{{ product.load("slot_x%d" % p, "b", "vec_x%d" % p) }}    }
    x{{ p }} = v;
  }
{% endif %}
{% endfor %}
{% endmacro %}
{{ product.open(invocations) }}  let lane = local % {{ subgroup }}u;
  let mine_of = local / {{ subgroup }}u;
  let at_x = mine_of / {{ wx }}u * {{ m }}u;  // the first token and row of its matrices; the next ones are {{ wy }} and {{ wx }} matrices on
  let at_w = mine_of % {{ wx }}u * {{ n_matrix }}u;
{% for i in range(rows_m) %}
{% for j in range(rows_n) %}
  var acc{{ i }}_{{ j }} = {{ sums }}();  // of each tile anew
{% endfor %}
{% endfor %}
{% for p in range(loads_w) %}
  let block_w{{ p }} = (local + {{ p * invocations }}u) % DEPTH;
  let slot_w{{ p }} = min((local + {{ p * invocations }}u) / DEPTH, {{ tile_n - 1 }}u);
  let row_w{{ p }} = {{ product.row("slot_w%d" % p) }};
{% endfor %}
{% for p in range(loads_x) %}
  let slot_x{{ p }} = min((local + {{ p * invocations }}u) / ACROSS, {{ tile_m - 1 }}u);
  let of_row{{ p }} = (local + {{ p * invocations }}u) % ACROSS;
  let block_x{{ p }} = of_row{{ p }} / {{ 32 // per }}u;
  let vec_x{{ p }} = of_row{{ p }} % {{ 32 // per }}u;
{% if halves %}
{{ product.token(p, "slot_x%d" % p) }}{% else %}
  var x{{ p }}: vec4<f32>;
{% endif %}
{% endfor %}
{{ fetch("0u", "var ") }}  for (var first = 0u; first < NB; first += DEPTH) {
    workgroupBarrier();
{% for p in range(loads_w) %}
    {
      let at = W_AT + slot_w{{ p }} * PITCH + block_w{{ p }} * {{ 32 // per }}u;
{% if depth > 1 %}
      let inside = first + block_w{{ p }} < NB;
      let d = select(Scale(), w{{ p }}.d, inside);
      let m = select(Scale(), w{{ p }}.m, inside);
{% else %}
      let d = w{{ p }}.d;
      let m = w{{ p }}.m;
{% endif %}
{% macro four(p, j) %}{{ w.part("d", j) }} * w{{ p }}.q[{{ j }}] + {{ w.part("m", j) }}{% endmacro %}
{% for j in range(0, 8, per // 4) %}
      {
        let a = {{ four(p, j) }};
{% if halves %}
        let b = {{ four(p, j + 1) }};
{% endif %}
  {{ put("at + %du" % (j * 4 // per), "a", "b") }}      }
{% endfor %}
    }
{% endfor %}
{% for p in range(loads_x) %}
    tile[slot_x{{ p }} * PITCH + of_row{{ p }}] = {{ "x%d" % p if halves else "bitcast<vec4<u32>>(x%d)" % p }};
{% endfor %}
    workgroupBarrier();
    if (first + DEPTH < NB) {
{{ fetch("first + DEPTH", "") }}    }
{% for c in range(0, 32 * depth, matrix.k) %}
    {
{% for j in range(rows_n) %}
      let w{{ j }} = subgroupMatrixLoad<{{ right }}, col_major>(&tile, W_AT + (at_w + {{ j * wx * n_matrix }}u) * PITCH + {{ c // per }}u, PITCH);
{% endfor %}
{% for i in range(rows_m) %}
      let x{{ i }} = subgroupMatrixLoad<{{ left }}, row_major>(&tile, (at_x + {{ i * wy * m }}u) * PITCH + {{ c // per }}u, PITCH);
{% for j in range(rows_n) %}
      acc{{ i }}_{{ j }} = subgroupMatrixMultiplyAccumulate(x{{ i }}, w{{ j }}, acc{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
    }
{% endfor %}
  }
  workgroupBarrier();
{% set results_n = rows_n // 2 if product.glu else rows_n %}
  let begin = mine_of * {{ of_subgroup }}u;
{% for i in range(rows_m) %}
{% for j in range(results_n) %}
  subgroupMatrixStore<row_major>(&tile, begin, acc{{ i }}_{{ j }}, {{ n_matrix // 4 }}u);
{% if product.glu %}
  subgroupMatrixStore<row_major>(&tile, begin + {{ size }}u, acc{{ i }}_{{ j + results_n }}, {{ n_matrix // 4 }}u);
{% endif %}
  workgroupBarrier();
  for (var e = lane; e < {{ size }}u; e += {{ subgroup }}u) {
{% call product.of_row("at_x + %du + e / %du" % (i * wy * m, n_matrix // 4)) %}
      let scale = {{ "scale_of(%s)" % product.token_of_row() if halves else "1.0" }};
      let found = scale * bitcast<vec4<f32>>(tile[begin + e]);
{% if product.glu %}
      let other = scale * bitcast<vec4<f32>>(tile[begin + {{ size }}u + e]);
{% endif %}
{% for c in range(4) %}
      {
        let o = o0 + at_w + {{ j * wx * n_matrix + c }}u + e % {{ n_matrix // 4 }}u * 4u;
{{ product.store("found[%d]" % c, "other[%d]" % c) }}      }
{% endfor %}
{% endcall %}
  }
  workgroupBarrier();
{% endfor %}
{% endfor %}
{{ product.close() }}}
