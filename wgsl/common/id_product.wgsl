{# As mat_product.wgsl, for products with a matrix of each expert: the tile's rows of x are those of (token, expert) pairs of one
   expert (sort_ids.wgsl), and a workgroup takes every so many of the tiles; or where part i of x is expert i's, one #}
{% import "common/functions.wgsl" as f %}
{% import "common/row_end.wgsl" as end %}
{% import "common/row_halves.wgsl" as rows %}
{% set glu = epilogue in f.glu %}
{% set tile_out = tile_n // 2 if glu else tile_n %}
{% set experts_rows = piece[1] if piece else n * n_expert %}{# of one weight, that are bound #}
{% set x4 = pitches[0] % 4 == x_first % 4 == (apart[0] if own else 0) % 4 == 0 %}
{% set each_result = "group.z * %du" % (n * n_expert) if stacked > 1 and not glu %}{# weights that are stacked give one each #}
{% set at_once = 1 %}{# many tiles have few pairs #}
{% if epilogue not in ("store", "add") %}
{{ f.functions }}
{% endif %}
{{ end.declare(columns, k) }}{{ rows.declare(n_tokens * x_row) if halves }}const NB = {{ k // 32 }}u;  // blocks of a row
const N = {{ n }}u;
const USED = {{ used }}u;
const TILE_OUT = {{ tile_out }}u;
{% if routed %}
var<workgroup> n_tiles: u32;
var<workgroup> tile_of: vec3<u32>;  // expert, first pair, pairs
{% endif %}
{# Pair i of the tile #}
{% macro pair(i) %}{{ "routes[pairs + %s]" % i if routed else "(mine.y + %s) * USED + mine.x" % i }}{% endmacro %}
{% macro there(i) %}{{ i }} < mine.z{% endmacro %}
{% macro row(i) %}
{% set out = "min(o0 + %s %% TILE_OUT, N - 1u)" % i %}
{{ "min(first_row + %s - %du, %du)" % (out, piece[0], piece[1] - 1) if piece else "first_row + " ~ out }}{{ " + select(0u, %du, %s >= TILE_OUT)" % (experts_rows, i) if glu }}
{%- endmacro %}
{% macro load(i, b, c) %}
        let pair = {{ pair(i) }};
{% if halves %}
        v = four_of(pair / USED, (pair / USED * {{ pitches[0] // 32 }}u + {{ "pair % USED * NB + " if own }}{{ b }}) * 4u, {{ c }});
{% elif x4 %}
        let c = 8u * {{ b }} + {{ c }};
        let at = {{ "(pair / USED * %du + %du + pair %% USED * %du) / 4u" % (pitches[0], x_first, apart[0]) if own else "(pair / USED * %du + %du) / 4u" % (pitches[0], x_first) }} + c;
        v = {{ end.read(columns, k, "x[at]", "c") }};
{% else %}
        let c = 8u * {{ b }} + {{ c }};
        let at = pair / USED * {{ pitches[0] }}u + {{ x_first }}u{{ " + pair %% USED * %du" % apart[0] if own }} + 4u * c;
        v = {{ end.read(columns, k, "vec4<f32>(x[at], x[at + 1u], x[at + 2u], x[at + 3u])", "c") }};
{% endif %}
{% endmacro %}
{% macro token(p, i) %}
  let pair_x{{ p }} = {{ pair("min(%s, mine.z - 1u)" % i) }};
  let token_x{{ p }} = pair_x{{ p }} / USED;
  let from_x{{ p }} = {{ "pair_x%d %% USED * NB" % p if own else "0u" }};
{% endmacro %}
{% macro codes(p, b) %}token_x{{ p }} * {{ pitches[0] // 32 }}u + from_x{{ p }} + {{ b }}{% endmacro %}
{% macro scale(p, b) %}(from_x{{ p }} + {{ b }}) * {{ n_tokens }}u + token_x{{ p }}{% endmacro %}
{% macro open(size) %}
@compute @workgroup_size({{ size }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_id) id: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let o0 = group.x * TILE_OUT;
{% if routed %}
  if (local == 0u) { n_tiles = min(routes[0], {{ (pairs_at - 1) // 3 }}u); }  // never more, whatever is there
  let end = workgroupUniformLoad(&n_tiles);
  for (var tile_at = group.y; tile_at < end; tile_at += groups.y) {
  if (local == 0u) { tile_of = vec3<u32>(routes[1u + 3u * tile_at], routes[2u + 3u * tile_at], routes[3u + 3u * tile_at]); }
  let mine = workgroupUniformLoad(&tile_of);
  let pairs = {{ pairs_at }}u + mine.y;
{% else %}
  {
  let t0 = group.y * {{ tile_m }}u;
  let mine = vec3<u32>(group.z, t0, min(batch[{{ io.n_tokens }}u] - t0, {{ tile_m }}u));
{% endif %}
  let first_row = mine.x * N{{ " + " ~ each_result if each_result }};
{% endmacro %}
{% macro begin() %}
{{ open(wx ~ ", " ~ wy) }}  let used = (mine.z + {{ wy - 1 }}u) / {{ wy }}u;  // rows of results that have a pair, the same for all invocations
  var acc = array<f32, {{ (tile_m // wy) * (tile_n // wx) }}>();  // of each tile anew
{% endmacro %}
{% macro of_row(i) %}
  if ({{ i }} < mine.z) {
    let pair = {{ pair(i) }};
    let to = pair / USED * {{ pitches[2] }}u + {{ y_first }}u + {{ "group.z * %du + " % (used * n) if each_result }}pair % USED * {{ apart[1] }}u;
{{ caller() }}  }
{% endmacro %}
{% macro token_of_row() %}(pair / USED){% endmacro %}
{% macro store(v, up) %}
      let row = first_row + o{{ " - %du" % piece[0] if piece }};
      if (o < N{{ " && row < %du" % piece[1] if piece }}) {
        var v = {{ "(" if factor }}{{ v }}{{ " * tensor_scales[mine.x%s]" % (" + group.z * %du" % n_expert if each_result) if scaled }}{{ " + bias[row]" if bias }}{{ ") * %s" % factor if factor }};
{% if glu %}
        v = op_{{ epilogue }}(v, {{ up }}{{ " * tensor_scales[mine.x + %du]" % n_expert if scaled }}{{ " + bias[row + %du]" % experts_rows if bias }});
{% elif epilogue not in ("store", "add") %}
        v = op_{{ epilogue }}(v);
{% endif %}
        y[to + o] {{ "+=" if epilogue == "add" else "=" }} v;
      }
{% endmacro %}
{% macro close() %}
  }
{% endmacro %}
