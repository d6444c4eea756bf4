{% set tq = queries // wq %}
{% set tk = keys // wk %}
{% set groups = (tq + 3) // 4 %}
{% set some = {1: "f32", 2: "vec2<f32>"}.get(tq, "vec4<f32>") %}
{% set k_loads = (keys * depth // 8 + wq * wk - 1) // (wq * wk) %}
{% set v_loads = (rows * width_v // 8 + wq * wk - 1) // (wq * wk) %}
// Attention of a batch, one workgroup for {{ queries }} tokens of one head: walks {{ "the batch" if texts else "the cache" }} in tiles of {{ keys }} positions up to
// the last that they see{{ ", from the first on" if window or texts }}, with an online softmax for each token. An invocation
// holds {{ tq }} x {{ tk }} scores of a tile and {{ tq }} x {{ parts }} vec4 of the output in registers; K comes through workgroup memory
// {{ depth }} values of each row at a time, V {{ rows }} rows at a time.
{% import "common/lanes.wgsl" as order %}
{% import "common/cache.wgsl" as cache %}
{% import "cache/" ~ type_k ~ ".wgsl" as k %}
{% if type_v %}
{% import "cache/" ~ type_v ~ ".wgsl" as v %}
{% endif %}
{% import "common/score.wgsl" as score %}
{% include "common/bindings.wgsl" %}
{{ score.declare(softcap, temperature, 1.4426950408889634) }}const BQ = {{ queries }}u;
const BK = {{ keys }}u;
const WQ = {{ wq }}u;
const WK = {{ wk }}u;
const W4 = {{ width // 4 }}u;  // vec4 of a head, with zeros behind its values, here and in the cache
const V4 = {{ width_v // 4 }}u;  // … and of what V has for it
const V8 = {{ width_v // 8 }}u;
const DEPTH4 = {{ depth // 4 }}u;
const DEPTH8 = {{ depth // 8 }}u;
const ROWS = {{ rows }}u;
const WG = {{ wq * wk }}u;
const HIDDEN = -3.4e38;  // the score of a position that a token does not see
const LOWEST = -1e30;  // below every score but that: where all of a tile is hidden, its weights are 0

// Indices of each dimension apart: what does not change within a loop is checked against its bound outside. A vec4 of padding
// moves rows to other banks. Token r + WQ i and position c + WK j are invocation (r, c)'s.
struct QueryRow { at: array<array<vec4<f32>, {{ wq }}>, {{ tq }}>, padding: vec4<f32> }
struct KeyRow { at: array<array<vec4<f32>, {{ wk }}>, {{ tk }}>, padding: vec4<f32> }
struct WeightRow { at: array<array<{{ some }}, {{ wq }}>, {{ groups }}>, padding: {{ some }} }
var<workgroup> queries: array<QueryRow, {{ width // 4 }}>;  // [value / 4][i][r]
var<workgroup> keys: array<KeyRow, {{ depth // 4 }}>;  // [value / 4][j][c]
var<workgroup> values: array<array<array<vec4<f32>, {{ wk }}>, {{ parts }}>, {{ rows }}>;  // [position][value / 4 / WK][value / 4 % WK]
var<workgroup> weights: array<WeightRow, {{ keys }}>;  // [position][i / 4][r], of up to four i
var<workgroup> of_lanes: array<WeightRow, {{ wk }}>;  // [c][i / 4][r], what each lane found in its positions

{% if texts %}
{% import "common/texts.wgsl" as of_texts %}
{% import "common/batch_heads.wgsl" as of_batch %}
{{ of_texts.declare(texts) }}
{{ of_batch.load("k", head_dim, eights) }}
{% if type_v %}
{{ of_batch.load("v", head_dim_v, eights) }}
{% endif %}
{{ of_batch.rows(qkv_row) }}
{% set back = window - 1 if causal else window // 2 %}
// The first token that token t sees, and one past the last
fn seen_from(t: u32) -> u32 { return {{ "max(text_begin(t), max(t, %du) - %du)" % (back, back) if window else "text_begin(t)" }}; }
fn seen_to(t: u32) -> u32 { return {{ "t + 1u" if causal else "min(text_end(t), t + %du)" % (back + 1) if window else "text_end(t)" }}; }
{% else %}
{{ cache.helpers(ring) }}
{{ k.load("k", width, k_unit, k_scales) }}
{% if type_v %}
{{ v.load("v", width_v, v_unit, v_scales) }}
{% endif %}
{% endif %}
{% set v_eight = "v_eight" if type_v else "k_eight" %}{# else values are the first numbers of keys #}
{# Rows behind the last are read as the last: their weights are 0, and what is in the cache there need not be a number #}
{% macro fetch_k(first, chunk) %}
{% for n in range(k_loads) %}
      k{{ n }} = k_eight(k_head + cache_row(min({{ first }} + (local + {{ n }}u * WG) / DEPTH8, last - 1u)), {{ chunk }} * DEPTH8 + (local + {{ n }}u * WG) % DEPTH8);
{% endfor %}
{% endmacro %}
{% macro fetch_v(first) %}
{% for n in range(v_loads) %}
      v{{ n }} = {{ v_eight }}(v_head + cache_row(min({{ first }} + (local + {{ n }}u * WG) / V8, last - 1u)), (local + {{ n }}u * WG) % V8);
{% endfor %}
{% endmacro %}
{% set position = "t0 + t - text_begin(t0 + t)" if texts else "n_past + t0 + t" %}
{% macro of(name, i) %}{{ name }}{{ i // 4 }}{{ "." ~ "xyzw"[i % 4] if tq > 1 }}{% endmacro %}
{# What an expression is for each token of a group #}
{% macro each(g, before, after) %}{{ some }}({% for i in range(4 * g, [4 * g + 4, tq] | min) %}{{ ", " if not loop.first }}{{ before }}{{ i }}{{ after }}{% endfor %}){% endmacro %}

@compute @workgroup_size({{ wq * wk }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
{% if paired %}
  // 32 invocations are 4 x 8 of the tile, so that pairs of neighbours, and pairs of every other, read the same vec4.
  let r = local / {{ 4 * wk }}u * 4u + (local & 1u) + ((local >> 3u) & 2u);
  let c = (local >> 5u) % {{ wk // 8 }}u * 8u + ((local >> 1u) & 7u);
{% else %}
  let r = local / WK;
  let c = local % WK;
{% endif %}
  let h = group.x{{ " + %du" % (first_kv * (n_head // n_head_kv)) if first_kv }};
  let n_tokens = batch[{{ io.n_tokens }}u];
  let n_past = batch[{{ io.n_past }}u];
  let t0 = ((n_tokens - 1u) / BQ - group.y) * BQ;  // the last tokens first: they have the most to do
{% if texts %}
  let k_head = ({{ n_head }}u + h / {{ n_head // n_head_kv }}u) * {{ head_dim }}u;  // what is before this head's
  let v_head = {{ "%du + h / %du * %du" % ((n_head + n_head_kv) * head_dim, n_head // n_head_kv, head_dim_v) if type_v else "k_head" }};
{% else %}
  let k_head = (group.x / {{ n_head // n_head_kv }}u) * {{ n_ctx }}u;
  let v_head = k_head;
{% endif %}
  for (var i = local; i < BQ * W4; i += WG) {
    let t = i / W4;
    var q = vec4<f32>(0.0);
    if (t0 + t < n_tokens) {
{% if eights %}
      q = qkv[(t0 + t) * {{ qkv_row // 4 }}u + h * W4 + i % W4] * {{ scale * 1.4426950408889634 }}{{ score.warm(temperature, position) }};  // for exp2
{% else %}
      let at = (t0 + t) * {{ qkv_row }}u + h * {{ head_dim }}u;
      let from4 = 4u * (i % W4);
      for (var d = from4; d < min(from4 + 4u, {{ head_dim }}u); d++) { q[d % 4u] = qkv[at + d] * {{ scale * 1.4426950408889634 }}{{ score.warm(temperature, position) }}; }
{% endif %}
    }
    queries[i % W4].at[t / WQ][t % WQ] = q;
  }
{% if texts %}
{% for i in range(tq) %}
  let from{{ i }} = seen_from(min(t0 + r + {{ wq * i }}u, n_tokens - 1u));
  let to{{ i }} = seen_to(min(t0 + r + {{ wq * i }}u, n_tokens - 1u));
{% endfor %}
  let last = seen_to(min(t0 + BQ, n_tokens) - 1u);  // one past the last position any of these tokens sees
  let oldest = seen_from(t0);
{% else %}
  let last = n_past + min(t0 + BQ, n_tokens);
  let own = n_past + t0 + r;  // the position of token r
{% if window %}
  let oldest = max(n_past + t0 + 1u, {{ window }}u) - {{ window }}u;  // that the first of these tokens sees
{% else %}
  let oldest = 0u;
{% endif %}
{% endif %}
{% for g in range(groups) %}
  var top{{ g }} = {{ some }}({{ "sinks[h] * 1.4426950408889634" if sinks else "LOWEST" }});
  var total{{ g }} = {{ some }}({{ "select(0.0, 1.0, c == 0u)" if sinks else "0.0" }});
{% endfor %}
{% for i in range(tq) %}
{% for p in range(parts) %}
  var acc{{ i }}_{{ p }} = vec4<f32>(0.0);
{% endfor %}
{% endfor %}
{% for n in range(k_loads) %}
  var k{{ n }}: Eight;
{% endfor %}
{% for n in range(v_loads) %}
  var v{{ n }}: Eight;
{% endfor %}
{% if ahead %}
{{ fetch_k("oldest", "0u") }}
{% endif %}
  for (var first = oldest; first < last; first += BK) {
{% for i in range(tq) %}
{% for j in range(tk) %}
    var s{{ i }}_{{ j }} = 0.0;
{% endfor %}
{% endfor %}
    for (var chunk = 0u; chunk < {{ width // depth }}u; chunk++) {
{% if not ahead %}
{{ fetch_k("first", "chunk") }}
{% endif %}
      if (chunk > 0u) { workgroupBarrier(); }
{% for n in range(k_loads) %}
      {
        let i = local + {{ n }}u * WG;
{% if keys * depth // 8 % (wq * wk) %}
        if (i < BK * DEPTH8) {
{% else %}
        {
{% endif %}
          let position = i / DEPTH8;
          keys[2u * (i % DEPTH8)].at[position / WK][position % WK] = k{{ n }}.low;
          keys[2u * (i % DEPTH8) + 1u].at[position / WK][position % WK] = k{{ n }}.high;
        }
      }
{% endfor %}
      workgroupBarrier();
{% if ahead %}
{% if width > depth %}
      if (chunk < {{ width // depth - 1 }}u) {
{{ fetch_k("first", "(chunk + 1u)") }}
      } else {
{{ fetch_v("first") }}
      }
{% else %}
{{ fetch_v("first") }}
{% endif %}
{% endif %}
      for (var d = 0u; d < DEPTH4; d++) {
{% for j in range(tk) %}
        let key{{ j }} = keys[d].at[{{ j }}][c];
{% endfor %}
{% for i in range(tq) %}
        let query{{ i }} = queries[chunk * DEPTH4 + d].at[{{ i }}][r];
{% for x in "xyzw" %}
{% for j in range(tk) %}
        s{{ i }}_{{ j }} = fma(query{{ i }}.{{ x }}, key{{ j }}.{{ x }}, s{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
{% endfor %}
      }
    }
{% if softcap %}
{% for i in range(tq) %}
{% for j in range(tk) %}
    s{{ i }}_{{ j }} = capped(s{{ i }}_{{ j }});
{% endfor %}
{% endfor %}
{% endif %}
{% if texts %}
{% for i in range(tq) %}
{% for j in range(tk) %}
    {
      let position = first + c + {{ wk * j }}u;
      s{{ i }}_{{ j }} = select(HIDDEN, s{{ i }}_{{ j }}, position >= from{{ i }} && position < to{{ i }});
    }
{% endfor %}
{% endfor %}
{% else %}
    if (first + BK > n_past + t0 + 1u{{ " || n_past + t0 + BQ > first + " ~ window ~ "u" if window }}) {
{% for i in range(tq) %}
{% for j in range(tk) %}
      {
        let position = first + c + {{ wk * j }}u;
        let at = own + {{ wq * i }}u;
        s{{ i }}_{{ j }} = select(HIDDEN, s{{ i }}_{{ j }}, position <= at{{ " && position + " ~ window ~ "u > at" if window }});
      }
{% endfor %}
{% endfor %}
    }
{% endif %}
{% for g in range(groups) %}
    var high{{ g }} = {{ each(g, "s", "_0") }};
{% for j in range(1, tk) %}
    high{{ g }} = max(high{{ g }}, {{ each(g, "s", "_" ~ j) }});
{% endfor %}
    of_lanes[c].at[{{ g }}][r] = high{{ g }};
{% endfor %}
    workgroupBarrier();
{% for g in range(groups) %}
    high{{ g }} = max(high{{ g }}, top{{ g }});
{% for n in range(wk) %}
    high{{ g }} = max(high{{ g }}, of_lanes[{{ n }}].at[{{ g }}][r]);
{% endfor %}
    let fade{{ g }} = exp2(top{{ g }} - high{{ g }});
    top{{ g }} = high{{ g }};
    total{{ g }} *= fade{{ g }};
{% for j in range(tk) %}
    {
      let w = exp2({{ each(g, "s", "_" ~ j) }} - high{{ g }});
      total{{ g }} += w;
      weights[c + {{ wk * j }}u].at[{{ g }}][r] = w;
    }
{% endfor %}
{% endfor %}
{% for i in range(tq) %}
{% for p in range(parts) %}
    acc{{ i }}_{{ p }} *= {{ of("fade", i) }};
{% endfor %}
{% endfor %}
    for (var chunk = 0u; chunk < {{ keys // rows }}u && first + chunk * ROWS < last; chunk++) {
{% if not ahead %}
{{ fetch_v("first + chunk * ROWS") }}
{% endif %}
      if (chunk > 0u) { workgroupBarrier(); }
{% for n in range(v_loads) %}
      {
        let i = local + {{ n }}u * WG;
{% if rows * width_v // 8 % (wq * wk) %}
        if (i < ROWS * V8) {
{% else %}
        {
{% endif %}
          let column = 2u * (i % V8);
          values[i / V8][column / WK][column % WK] = v{{ n }}.low;
          values[i / V8][(column + 1u) / WK][(column + 1u) % WK] = v{{ n }}.high;
        }
      }
{% endfor %}
      workgroupBarrier();
{% if ahead %}
{% if keys > rows %}
      if (chunk < {{ keys // rows - 1 }}u && first + (chunk + 1u) * ROWS < last) {
{{ fetch_v("first + (chunk + 1u) * ROWS") }}
      } else {
{{ fetch_k("first + BK", "0u") }}
      }
{% else %}
{{ fetch_k("first + BK", "0u") }}
{% endif %}
{% endif %}
      for (var j = 0u; j < ROWS; j++) {
{% for p in range(parts) %}
        let value{{ p }} = values[j][{{ p }}][c];
{% endfor %}
{% for g in range(groups) %}
        let w{{ g }} = weights[chunk * ROWS + j].at[{{ g }}][r];
{% endfor %}
{% for i in range(tq) %}
{% for p in range(parts) %}
        acc{{ i }}_{{ p }} = fma(vec4<f32>({{ of("w", i) }}), value{{ p }}, acc{{ i }}_{{ p }});
{% endfor %}
{% endfor %}
      }
    }
  }
{% for g in range(groups) %}
  of_lanes[c].at[{{ g }}][r] = total{{ g }};
{% endfor %}
  workgroupBarrier();
{% for g in range(groups) %}
  total{{ g }} = {{ some }}(0.0);
{% for n in range(wk) %}
  total{{ g }} += of_lanes[{{ n }}].at[{{ g }}][r];
{% endfor %}
{% endfor %}
{% for i in range(tq) %}
  {
    let t = t0 + r + {{ wq * i }}u;
    if (t < n_tokens) {
{% for p in range(parts) %}
      {
        let column = c + {{ wk * p }}u;
{% if eights %}
        if (column < V4) { y[t * {{ y_row // 4 }}u + h * V4 + column] = acc{{ i }}_{{ p }} / {{ of("total", i) }}; }
{% else %}
{{ order.write_part("t * %du + h * %du" % (y_row, head_dim_v), "4u * column", "acc%d_%d / %s" % (i, p, of("total", i)), head_dim_v, n_head, false) }}{% endif %}
      }
{% endfor %}
    }
  }
{% endfor %}
}
