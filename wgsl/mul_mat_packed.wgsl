{% import "common/mat_product.wgsl" as product with context %}
{% set tm = tile_m // wy %}
{% set tn = tile_n // wx %}
{% set invocations = wx * wy %}
{% set loads_w = (tile_n * depth + invocations - 1) // invocations %}
{% set loads_x = (tile_m * depth + invocations - 1) // invocations %}
{% set packed = true %}
// As mul_mat, with the packed 4x8-bit integer dot: x_q8 has integers of 8 bits (quantize.wgsl). A step is {{ depth }} blocks of 32
// columns; while one is computed out of workgroup memory, the next one is on its way into registers.
{% include "common/packed_dot.wgsl" %}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
const DEPTH = {{ depth }}u;
const SCALES = {{ n_tokens * (k // 32) * 2 }}u;  // of x, behind its codes: [block][token], four a vector
{% set sums = "vec3<f32>" if split else "vec2<f32>" %}
{% set scales = "vec4<f32>" if split else "vec2<f32>" %}

var<workgroup> tile_x: array<vec4<u32>, {{ 2 * depth * tile_m }}>;  // [block][half][token]
var<workgroup> tile_w: array<vec4<u32>, {{ 2 * depth * tile_n }}>;  // [block][half][row]
var<workgroup> scales_x: array<{{ sums }}, {{ depth * tile_m }}>;  // d, and sums of d * x over the block{{ " or its halves" if split }}
var<workgroup> scales_w: array<{{ scales }}, {{ depth * tile_n }}>;  // d and m{{ ", of each half" if split }}

@compute @workgroup_size({{ wx }}, {{ wy }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let n_tokens = batch[{{ io.n_tokens }}u];
  let t0 = group.y * {{ tile_m }}u;
  let o0 = group.x * TILE_OUT;
  let used = (n_tokens - t0 + {{ wy - 1 }}u) / {{ wy }}u;  // rows of results that have a token, the same for all invocations
  var acc: array<f32, {{ tm * tn }}>;
{% for p in range(loads_w) %}
  let block_w{{ p }} = (local + {{ p * invocations }}u) % DEPTH;
  let slot_w{{ p }} = {{ "min((local + %du) / DEPTH, %du)" % (p * invocations, tile_n - 1) }};
  let row_w{{ p }} = {{ product.row("slot_w%d" % p) }};
{% endfor %}
{% for p in range(loads_x) %}
  let block_x{{ p }} = (local + {{ p * invocations }}u) % DEPTH;
  let slot_x{{ p }} = {{ "min((local + %du) / DEPTH, %du)" % (p * invocations, tile_m - 1) }};
  let token_x{{ p }} = min(t0 + slot_x{{ p }}, n_tokens - 1u);
{% endfor %}
{% macro fetch(first, declare) %}
{% for p in range(loads_w) %}
  {{ declare }}w{{ p }} = load32(row_w{{ p }} * NB + min({{ first }} + block_w{{ p }}, NB - 1u));
{% endfor %}
{% for p in range(loads_x) %}
  {
    let b = min({{ first }} + block_x{{ p }}, NB - 1u);
    let at = (token_x{{ p }} * NB + b) * 2u;
    low{{ p }} = x_q8[at];
    high{{ p }} = x_q8[at + 1u];
    let s = b * {{ n_tokens }}u + token_x{{ p }};
    scale{{ p }} = bitcast<f32>(x_q8[SCALES + s / 4u][s % 4u]);
  }
{% endfor %}
{% endmacro %}
{% for p in range(loads_x) %}
  var low{{ p }}: vec4<u32>;
  var high{{ p }}: vec4<u32>;
  var scale{{ p }}: f32;
{% endfor %}
{{ fetch("0u", "var ") }}
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
      let at = 2u * block_x{{ p }} * {{ tile_m }}u + slot_x{{ p }};
      tile_x[at] = low{{ p }};
      tile_x[at + {{ tile_m }}u] = high{{ p }};
{% macro sum(v) %}{% for c in "xyzw" %}dot4I8Packed({{ v }}.{{ c }}, 0x01010101u){{ " + " if not loop.last }}{% endfor %}{% endmacro %}
      let s = vec2<f32>(vec2<i32>({{ sum("low%d" % p) }}, {{ sum("high%d" % p) }}));
      scales_x[block_x{{ p }} * {{ tile_m }}u + slot_x{{ p }}] = scale{{ p }} * {{ "vec3<f32>(1.0, s)" if split else "vec2<f32>(1.0, s.x + s.y)" }};
    }
{% endfor %}
    workgroupBarrier();
    if (first + DEPTH < NB) {
{{ fetch("first + DEPTH", "") }}    }
    for (var c = 0u; c < DEPTH; c++) {
{% for j in range(tn) %}
      let w_low{{ j }} = tile_w[2u * c * {{ tile_n }}u + id.x + {{ wx * j }}u];
      let w_high{{ j }} = tile_w[(2u * c + 1u) * {{ tile_n }}u + id.x + {{ wx * j }}u];
      let w_scale{{ j }} = scales_w[c * {{ tile_n }}u + id.x + {{ wx * j }}u];
{% endfor %}
{% macro half(w, v) %}{% for c in "xyzw" %}dot4I8Packed({{ w }}.{{ c }}, {{ v }}.{{ c }}){{ " + " if not loop.last }}{% endfor %}{% endmacro %}
{% for i in range(tm) %}
      if ({{ i }}u < used) {
        let low = tile_x[2u * c * {{ tile_m }}u + id.y + {{ wy * i }}u];
        let high = tile_x[(2u * c + 1u) * {{ tile_m }}u + id.y + {{ wy * i }}u];
        let scale = scales_x[c * {{ tile_m }}u + id.y + {{ wy * i }}u];
{% for j in range(tn) %}
        {
          let p0 = {{ half("w_low%d" % j, "low") }};
          let p1 = {{ half("w_high%d" % j, "high") }};
{% if split %}
          acc[{{ i * tn + j }}] += scale.x * dot(w_scale{{ j }}.xy, vec2<f32>(vec2<i32>(p0, p1))) + dot(w_scale{{ j }}.zw, scale.yz);
{% else %}
          acc[{{ i * tn + j }}] += w_scale{{ j }}.x * scale.x * f32(p0 + p1) + w_scale{{ j }}.y * scale.y;
{% endif %}
        }
{% endfor %}
      }
{% endfor %}
    }
  }
{{ product.results() }}}
