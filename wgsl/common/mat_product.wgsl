{# What the matrix-matrix kernels share: the constants of a tile, where its rows are, and what becomes of its results #}
{% import "common/functions.wgsl" as f %}
{% import "common/row_end.wgsl" as end %}
{% import "common/row_halves.wgsl" as rows %}
{% import "common/tensor_scale.wgsl" as tensor %}
{% set glu = epilogue in f.glu %}
{% set tile_out = tile_n // 2 if glu else tile_n %}
{% set at_once = 4 %}{# rows of results between two questions whether they are there: each question costs some time #}
{% if epilogue not in ("store", "add") %}
{{ f.functions }}
{% endif %}
{{ end.declare(columns, k) }}{{ rows.declare(n_tokens * k) if halves }}const NB = {{ k // 32 }}u;  // blocks of a row
const N = {{ n }}u;
const OUT = {{ n // 2 if glu else n }}u;
const TILE_OUT = {{ tile_out }}u;
{# Row i of the tile of W that begins at result o0; with a gated linear unit, half of its rows are gates and the other half
   their ups, so that one invocation holds both #}
{% macro row(i) %}
{% if glu %}
min(o0 + {{ i }} % TILE_OUT, OUT - 1u) + select(0u, OUT, {{ i }} >= TILE_OUT)
{%- else %}
min(o0 + {{ i }}, N - 1u)
{%- endif %}
{% endmacro %}
{# Whether the tile has a row i of x #}
{% macro there(i) %}t0 + {{ i }} < n_tokens{% endmacro %}
{# Into v, vec4 c of block b of that row #}
{% macro load(i, b, c) %}
{% if halves %}
        v = four_of(t0 + {{ i }}, ((t0 + {{ i }}) * NB + {{ b }}) * 4u, {{ c }});
{% else %}
        v = {{ end.read(columns, k, "x[((t0 + %s) * NB + %s) * 8u + %s]" % (i, b, c), "%s * 8u + %s" % (b, c)) }};
{% endif %}
{% endmacro %}
{# Says of which row i or the last one is, as number p; `codes` and `scale` are where block b of that is in x_q #}
{% macro token(p, i) %}
  let token_x{{ p }} = min(t0 + {{ i }}, n_tokens - 1u);
{% endmacro %}
{% macro codes(p, b) %}token_x{{ p }} * NB + {{ b }}{% endmacro %}
{% macro scale(p, b) %}{{ b }} * {{ n_tokens }}u + token_x{{ p }}{% endmacro %}
{# The head of a kernel: its workgroup's size, and the tile that a workgroup has #}
{% macro open(size) %}
@compute @workgroup_size({{ size }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_id) id: vec3<u32>,
        @builtin(local_invocation_index) local: u32) {
  let n_tokens = {{ "min(batch[%du], %du)" % (io.n_tokens, n_tokens) if n_tokens is defined else "batch[%du]" % io.n_tokens }};  // behind a pooling there are fewer rows
  let t0 = group.y * {{ tile_m }}u;
  let o0 = group.x * TILE_OUT;
{% endmacro %}
{# … of one whose invocations hold tiles of results in registers #}
{% macro begin() %}
{{ open(wx ~ ", " ~ wy) }}  let used = (n_tokens - t0 + {{ wy - 1 }}u) / {{ wy }}u;  // rows of results that have a token, the same for all invocations
  var acc: array<f32, {{ (tile_m // wy) * (tile_n // wx) }}>;
{% endmacro %}
{# What the caller does with results of row i, if the tile has it #}
{% macro of_row(i) %}
  {
    let t = t0 + {{ i }};
    if (t < n_tokens) {
{{ caller() }}    }
  }
{% endmacro %}
{# Which token that row is of #}
{% macro token_of_row() %}t{% endmacro %}
{# Writes result o of that row, if it is one; `v`, `up`: expressions, the second for a gated linear unit alone #}
{% macro store(v, up) %}
        if (o < OUT) {
        var v = {{ "(" if factor }}{{ v }}{{ tensor.of(scaled, "o") }}{{ " + bias[o]" if bias }}{{ ") * %s" % factor if factor }};
{% if glu %}
        let up = {{ up }}{{ tensor.of(scaled, "OUT + o") }}{{ " + bias[OUT + o]" if bias }};
        v = op_{{ epilogue }}(v, up);
{% elif epilogue not in ("store", "add") %}
        v = op_{{ epilogue }}(v);
{% endif %}
        y[t * {{ stride }}u + {{ offset }}u + o] {{ "+=" if epilogue == "add" else "=" }} v;
        }
{% endmacro %}
{% macro close() %}{% endmacro %}
