// y = W x of each of a batch's (token, expert) pairs, in tiles of {{ tile_m }} pairs of one expert (sort_ids.wgsl) by {{ tile_n }} rows of its
// matrix, 32 columns at a time through workgroup memory; a workgroup takes every so many of the tiles, or where part i of x
// is expert i's, one. Else as mul_mat_id.
{% import "common/row_end.wgsl" as end %}
{% import "common/functions.wgsl" as f %}
{% set glu = epilogue in f.glu %}
{% set tile_out = tile_n // 2 if glu else tile_n %}
{% set experts_rows = piece[1] if piece else n * n_expert %}{# of one weight, that are bound #}
{% set x4 = pitches[0] % 4 == x_first % 4 == (apart[0] if own else 0) % 4 == 0 %}
{# Pair i of the tile #}
{% macro pair(i) %}{{ "routes[pairs + %s]" % i if routed else "(mine.y + %s) * USED + mine.x" % i }}{% endmacro %}
{% set tm = tile_m // wy %}
{% set tn = tile_n // wx %}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{% if epilogue not in ("store", "add") %}
{{ f.functions }}
{% endif %}
{{ end.declare(columns, k) }}const NB = {{ k // 32 }}u;  // blocks of a row
const N = {{ n }}u;
const USED = {{ used }}u;
const TILE_OUT = {{ tile_out }}u;
{% if routed %}
var<workgroup> n_tiles: u32;
var<workgroup> tile_of: vec3<u32>;  // expert, first pair, pairs
{% endif %}
var<workgroup> tile_x: array<vec4<f32>, {{ 8 * tile_m }}>;  // [column / 4][pair]
var<workgroup> tile_w: array<vec4<f32>, {{ 8 * tile_n }}>;  // [column / 4][row]

@compute @workgroup_size({{ wx }}, {{ wy }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let o0 = group.x * TILE_OUT;
{% if routed %}
  if (local == 0u) { n_tiles = min(routes[0], {{ (pairs_at - 1) // 3 }}u); }  // never more, whatever is there
  let end = workgroupUniformLoad(&n_tiles);
  for (var tile = group.y; tile < end; tile += groups.y) {
    if (local == 0u) { tile_of = vec3<u32>(routes[1u + 3u * tile], routes[2u + 3u * tile], routes[3u + 3u * tile]); }
    let mine = workgroupUniformLoad(&tile_of);
    let pairs = {{ pairs_at }}u + mine.y;
{% else %}
  {
    let t0 = group.y * {{ tile_m }}u;
    let mine = vec3<u32>(group.z, t0, min(batch[{{ io.n_tokens }}u] - t0, {{ tile_m }}u));
{% endif %}
    let first = mine.x * N{{ " + group.z * %du" % (n * n_expert) if stacked > 1 and not glu }};
    let held = (mine.z + {{ wy - 1 }}u) / {{ wy }}u;  // rows of results that have a pair, the same for all invocations
    var acc = array<f32, {{ tm * tn }}>();  // of each tile anew
    for (var b = 0u; b < NB; b++) {
      for (var i = local; i < {{ 8 * tile_m }}u; i += {{ wx * wy }}u) {
        var v = vec4<f32>(0.0);
        if (i / 8u < mine.z) {
          let pair = {{ pair("i / 8u") }};
          let c = 8u * b + i % 8u;
{% if x4 %}
          let at = {{ "(pair / USED * %du + %du + pair %% USED * %du) / 4u" % (pitches[0], x_first, apart[0]) if own else "pair / USED * %du" % (pitches[0] // 4) }} + c;
          v = {{ end.read(columns, k, "x[at]", "c") }};
{% else %}
          let at = pair / USED * {{ pitches[0] }}u + {{ x_first }}u{{ " + pair %% USED * %du" % apart[0] if own }} + 4u * c;
          v = {{ end.read(columns, k, "vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u])", "c") }};
{% endif %}
        }
        tile_x[(i % 8u) * {{ tile_m }}u + i / 8u] = v;
      }
      for (var i = local; i < {{ tile_n }}u; i += {{ wx * wy }}u) {
        let out = min(o0 + i % TILE_OUT, N - 1u);
        let row = {{ "min(first + out - %du, %du)" % (piece[0], piece[1] - 1) if piece else "first + out" }}{{ " + select(0u, %du, i >= TILE_OUT)" % experts_rows if glu }};
        let w = load32(row * NB + b);
{% for j in range(8) %}
        tile_w[{{ j * tile_n }}u + i] = {{ w.part("w.d", j) }} * w.q[{{ j }}] + {{ w.part("w.m", j) }};
{% endfor %}
      }
      workgroupBarrier();
      for (var c = 0u; c < 8u; c++) {
{% for j in range(tn) %}
        let w{{ j }} = tile_w[c * {{ tile_n }}u + id.x + {{ wx * j }}u];
{% endfor %}
{% for i in range(tm) %}
        if ({{ i }}u < held) {
          let v = tile_x[c * {{ tile_m }}u + id.y + {{ wy * i }}u];
{% for j in range(tn) %}
          acc[{{ i * tn + j }}] += dot(v, w{{ j }});
{% endfor %}
        }
{% endfor %}
      }
      workgroupBarrier();
    }
{% for i in range(tm) %}
    if (id.y + {{ wy * i }}u < mine.z) {
      let pair = {{ pair("id.y + %du" % (wy * i)) }};
      let to = pair / USED * {{ pitches[1] }}u + {{ y_first }}u + {{ "group.z * %du + " % (used * n) if stacked > 1 and not glu }}pair % USED * {{ apart[1] }}u;
{% for j in range(tn // 2 if glu else tn) %}
      {
        let o = o0 + id.x + {{ wx * j }}u;
        let row = first + o{{ " - %du" % piece[0] if piece }};
        if (o < N{{ " && row < %du" % piece[1] if piece }}) {
          var v = {{ "(" if factor }}acc[{{ i * tn + j }}]{{ " + bias[row]" if bias }}{{ ") * %s" % factor if factor }};
{% if glu %}
          v = op_{{ epilogue }}(v, acc[{{ i * tn + j + tn // 2 }}]{{ " + bias[row + %du]" % experts_rows if bias }});
{% elif epilogue not in ("store", "add") %}
          v = op_{{ epilogue }}(v);
{% endif %}
          y[to + o] {{ "+=" if epilogue == "add" else "=" }} v;
        }
      }
{% endfor %}
    }
{% endfor %}
  }
}
