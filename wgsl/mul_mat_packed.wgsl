{% import shared if shared is defined else "common/mat_product.wgsl" as product with context %}
{% import "common/tile_results.wgsl" as tile with context %}
{% set tm = tile_m // wy %}
{% set tn = tile_n // wx %}
{% set invocations = wx * wy %}
{% set loads_w = (tile_n * depth + invocations - 1) // invocations %}
{% set loads_x = (tile_m * depth + invocations - 1) // invocations %}
{% set packed = true %}
{% set parts = bits // 4 %}
// As mul_mat, with the packed 4x8-bit integer dot: x_q has integers of {{ bits }} bits (quantize.wgsl){{ ", whose high and low bytes take" if bits == 16 }}
// {{ "a dot each. " if bits == 16 }}A step is {{ depth }} blocks of 32 columns; while one is computed out of workgroup memory, the next one is on its way
// into registers.
{% include "common/packed_dot.wgsl" %}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
const DEPTH = {{ depth }}u;
const SCALES = {{ n_tokens * (x_row // 32) * parts }}u;  // of x, behind its codes: [block][token], four a vector
{% set sums = "vec3<f32>" if split else "vec2<f32>" %}
{% set scales = "vec4<f32>" if split else "vec2<f32>" %}

var<workgroup> tile_x: array<vec4<u32>, {{ parts * depth * tile_m }}>;  // [block][half{{ ", of high bytes, then of low ones" if bits == 16 }}][token]
var<workgroup> tile_w: array<vec4<u32>, {{ 2 * depth * tile_n }}>;  // [block][half][row]
var<workgroup> scales_x: array<{{ sums }}, {{ depth * tile_m }}>;  // d, and sums of d * x over the block{{ " or its halves" if split }}
var<workgroup> scales_w: array<{{ scales }}, {{ depth * tile_n }}>;  // d and m{{ ", of each half" if split }}

{{ product.begin() }}{% for p in range(loads_w) %}
  let block_w{{ p }} = (local + {{ p * invocations }}u) % DEPTH;
  let slot_w{{ p }} = {{ "min((local + %du) / DEPTH, %du)" % (p * invocations, tile_n - 1) }};
  let row_w{{ p }} = {{ product.row("slot_w%d" % p) }};
{% endfor %}
{% for p in range(loads_x) %}
  let block_x{{ p }} = (local + {{ p * invocations }}u) % DEPTH;
  let slot_x{{ p }} = {{ "min((local + %du) / DEPTH, %du)" % (p * invocations, tile_m - 1) }};
{{ product.token(p, "slot_x%d" % p) }}{% endfor %}
{% macro fetch(first, declare) %}
{% for p in range(loads_w) %}
  {{ declare }}w{{ p }} = load32(row_w{{ p }} * NB + min({{ first }} + block_w{{ p }}, NB - 1u));
{% endfor %}
{% for p in range(loads_x) %}
  {
    let b = min({{ first }} + block_x{{ p }}, NB - 1u);
    let at = ({{ product.codes(p, "b") }}) * {{ parts }}u;
{% for part in range(parts) %}
    x{{ p }}_{{ part }} = x_q[at + {{ part }}u];
{% endfor %}
    let s = {{ product.scale(p, "b") }};
    scale{{ p }} = bitcast<f32>(x_q[SCALES + s / 4u][s % 4u]);
  }
{% endfor %}
{% endmacro %}
{% for p in range(loads_x) %}
{% for part in range(parts) %}
  var x{{ p }}_{{ part }}: vec4<u32>;
{% endfor %}
  var scale{{ p }}: f32;
{% endfor %}
{{ fetch("0u", "var ") }}
{% macro sum(v) %}{% for c in "xyzw" %}dot4I8Packed({{ v }}.{{ c }}, 0x01010101u){{ " + " if not loop.last }}{% endfor %}{% endmacro %}
{% macro half(w, v) %}{% for c in "xyzw" %}dot4I8Packed({{ w }}.{{ c }}, {{ v }}.{{ c }}){{ " + " if not loop.last }}{% endfor %}{% endmacro %}
{# Row j of the tile of W by token i, over some halves of the block #}
{% macro product_of(j, halves) %}
{% for h in halves %}{% if bits == 16 and loop.first %}(({% endif %}{{ half("w%d_%d" % (j, h), "v%d" % h) }}{{ " + " if not loop.last }}{% endfor %}
{%- if bits == 16 %}) << 8u){% for h in halves %} + {{ half("w%d_%d" % (j, h), "v%d" % (h + 2)) }}{% endfor %}{% endif %}
{% endmacro %}
  for (var first = 0u; first < NB; first += DEPTH) {
    workgroupBarrier();
{% for p in range(loads_w) %}
    {
      let inside = first + block_w{{ p }} < NB;
      let at = 2u * block_w{{ p }} * {{ tile_n }}u + slot_w{{ p }};
{% for half in range(2) %}
      tile_w[at + {{ half * tile_n }}u] = vec4<u32>({% for j in range(4) %}w{{ p }}.q[{{ 4 * half + j }}]{{ ", " if not loop.last }}{% endfor %});
{% endfor %}
      scales_w[block_w{{ p }} * {{ tile_n }}u + slot_w{{ p }}] = select({{ scales }}(), {{ scales }}(w{{ p }}.d, w{{ p }}.m), inside);
    }
{% endfor %}
{% for p in range(loads_x) %}
    {
      let at = {{ parts }}u * block_x{{ p }} * {{ tile_m }}u + slot_x{{ p }};
{% for part in range(parts) %}
      tile_x[at + {{ part * tile_m }}u] = x{{ p }}_{{ part }};
{% endfor %}
{% if bits == 16 %}
      let s0 = (({{ sum("x%d_0" % p) }}) << 8u) + {{ sum("x%d_2" % p) }};
      let s1 = (({{ sum("x%d_1" % p) }}) << 8u) + {{ sum("x%d_3" % p) }};
{% else %}
      let s0 = {{ sum("x%d_0" % p) }};
      let s1 = {{ sum("x%d_1" % p) }};
{% endif %}
      scales_x[block_x{{ p }} * {{ tile_m }}u + slot_x{{ p }}] = scale{{ p }} * {{ "vec3<f32>(1.0, vec2<f32>(vec2<i32>(s0, s1)))" if split else "vec2<f32>(1.0, f32(s0 + s1))" }};
    }
{% endfor %}
    workgroupBarrier();
    if (first + DEPTH < NB) {
{{ fetch("first + DEPTH", "") }}    }
{% for c in range(depth) %}
    {
{% for j in range(tn) %}
      let w{{ j }}_0 = tile_w[{{ 2 * c * tile_n + wx * j }}u + id.x];
      let w{{ j }}_1 = tile_w[{{ (2 * c + 1) * tile_n + wx * j }}u + id.x];
      let w_scale{{ j }} = scales_w[{{ c * tile_n + wx * j }}u + id.x];
{% endfor %}
{% for i in range(tm) %}
{% if i % product.at_once == 0 %}
      if ({{ i }}u < used) {
{% endif %}
      {
{% for part in range(parts) %}
        let v{{ part }} = tile_x[{{ (parts * c + part) * tile_m + wy * i }}u + id.y];
{% endfor %}
        let scale = scales_x[{{ c * tile_m + wy * i }}u + id.y];
{% for j in range(tn) %}
{% if split %}
        acc[{{ i * tn + j }}] += scale.x * dot(w_scale{{ j }}.xy, vec2<f32>(vec2<i32>({{ product_of(j, [0]) }}, {{ product_of(j, [1]) }}))) + dot(w_scale{{ j }}.zw, scale.yz);
{% else %}
        acc[{{ i * tn + j }}] += w_scale{{ j }}.x * scale.x * f32({{ product_of(j, [0, 1]) }}) + w_scale{{ j }}.y * scale.y;
{% endif %}
{% endfor %}
      }
{% if (i + 1) % product.at_once == 0 or loop.last %}
      }
{% endif %}
{% endfor %}
    }
{% endfor %}
  }
{{ tile.results() }}}
