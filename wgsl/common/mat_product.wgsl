{# What the matrix-matrix kernels share: the constants of a tile, and what becomes of its results #}
{% import "common/glu.wgsl" as g %}
{% set glu = epilogue in g.names %}
{% set tile_out = tile_n // 2 if glu else tile_n %}
const NB = {{ k // 32 }}u;  // blocks of a row
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
{# Writes result o of token t; `v`, `up`: expressions, the second for a gated linear unit alone #}
{% macro store(v, up) %}
        var v = {{ v }}{{ " + bias[o]" if bias }};
{% if glu %}
        let up = {{ up }}{{ " + bias[OUT + o]" if bias }};
        v = {{ g.activated(epilogue, "v") }} * up;
{% endif %}
        y[t * {{ stride }}u + {{ offset }}u + o] {{ "+=" if epilogue == "add" else "=" }} v;
{% endmacro %}
{# An invocation's results: acc[0], … for tokens id.y + wy * i and rows id.x + wx * j of the tile #}
{% macro results() %}
{% set tm = tile_m // wy %}
{% set tn = tile_n // wx %}
{% for i in range(tm) %}
  {
    let t = t0 + id.y + {{ wy * i }}u;
    if (t < n_tokens) {
{% for j in range(tn // 2 if glu else tn) %}
      {
        let o = o0 + id.x + {{ wx * j }}u;
        if (o < OUT) {
{{ store("acc[%d]" % (i * tn + j), "acc[%d]" % (i * tn + j + tn // 2)) }}        }
      }
{% endfor %}
    }
  }
{% endfor %}
{% endmacro %}
