// Attention of one token, one workgroup for {{ heads }} query heads of one key-value head:{% if not rotated %}{% if shared %} norms and
// rotates q, and{% else %} norms and rotates q and k, appends
// k and v to the layer's cache, and{% endif %}{% endif %} attends to all positions{{ " of the window" if window }} with an online softmax. A step has a position for
// each invocation: first it asks for values, so that they come while it scores its key for every head; then lanes become
// columns of V, and groups of them share the positions. Each of the workgroups that share a key-value head rounds the new
// k and v for itself; the first of them writes the cache. With splits, the positions are shared out among as many
// workgroups, and y holds their parts for flash_attn_reduce: sums, then the largest score and the sum of weights.
{% import "common/lanes.wgsl" as order %}
{% import "common/cache.wgsl" as cache %}
{% import "cache/" ~ type_k ~ ".wgsl" as k %}
{% if type_v %}
{% import "cache/" ~ type_v ~ ".wgsl" as v %}
{% endif %}
{% if subgroup %}
enable subgroups;
{% endif %}
{% import "common/score.wgsl" as score %}
{% include "common/bindings.wgsl" %}
{{ score.declare(softcap, temperature, 1.0) }}{% if mode and not rotated %}
{% include "common/rope.wgsl" %}
{% endif %}
const WG = {{ workgroup }}u;
const HEADS = {{ heads }}u;
const D = {{ head_dim }}u;
const W = {{ width }}u;  // values of a head with the zeros behind them, here and in the cache
const W4 = {{ width // 4 }}u;
const V = {{ width_v }}u;  // … of what V has for it
const V4 = {{ width_v // 4 }}u;
const V8 = {{ width_v // 8 }}u;
const GROUPS = {{ groups }}u;
{% set each = (workgroup + groups - 1) // groups %}{# positions of a group in a step #}
const SPAN = {{ each * groups }}u;
const PARTS = {{ parts }}u;  // sums that are left when neighbours have added up theirs
{% set units = width // k_unit + (width_v // v_unit if type_v else 0) %}
{% set v_eight = "v_eight" if type_v else "k_eight" %}{# else values are the first numbers of keys #}
{# Where in `head` k, v and q begin #}
{% set v_at = width if type_v else 0 %}
{% set q_at = width + (width_v if type_v else 0) %}
{% set subgroups = workgroup // subgroup if subgroup else 0 %}

{% set appends = not rotated and not shared %}{# this token's key and value, which are not in the cache yet #}
{% if not rotated %}
var<workgroup> head: array<f32, {{ q_at + heads * width }}>;  // k, v and q of this token; k and v as the cache rounds them
fn head4(at: u32) -> vec4<f32> { return vec4<f32>(head[at], head[at + 1u], head[at + 2u], head[at + 3u]); }
{% endif %}
var<workgroup> query: array<vec4<f32>, {{ heads * width // 4 }}>;
var<workgroup> weight: array<f32, {{ heads * each * groups }}>;
var<workgroup> partial: array<f32, {{ (heads + 2) * subgroups if subgroup else workgroup }}>;
var<workgroup> of_head: array<f32, {{ heads + 1 }}>;
var<workgroup> norms: array<f32, {{ heads }}>;
var<workgroup> sums: array<vec4<f32>, {{ parts * heads * width_v // 4 }}>;
{% if k_unit > 8 or v_unit > 8 %}
var<workgroup> scales: array<u32, {{ units }}>;
{% endif %}
{{ cache.helpers(ring) }}
{{ k.load("k", width, k_unit, k_scales) }}
{% if type_v %}
{{ v.load("v", width_v, v_unit, v_scales) }}
{% endif %}
{% if appends %}
{{ k.store("k", width, k_unit, k_scales, false) }}
{% if type_v %}
{{ v.store("v", width_v, v_unit, v_scales, false) }}
{% endif %}
{% endif %}

// Over all lanes, for every lane; `i` tells apart what is asked for without a barrier between
{% macro over_lanes(name, builtin, first, second) %}
fn {{ name }}(lane: u32, value: f32, i: u32) -> f32 {
{% if subgroup %}
  let mine = {{ builtin }}(value);
  let part = i * {{ subgroups }}u;
  if (lane % {{ subgroup }}u == 0u) { partial[part + lane / {{ subgroup }}u] = mine; }
  workgroupBarrier();
  var all = partial[part];
  for (var s = 1u; s < {{ subgroups }}u; s++) { all = {{ first }}all{{ second }}partial[part + s]); }
  return all;
{% else %}
  workgroupBarrier();
  partial[lane] = value;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] = {{ first }}partial[lane]{{ second }}partial[lane + half]); }
  }
  workgroupBarrier();
  return partial[0];
{% endif %}
}
{% endmacro %}
{{ over_lanes("max_of", "subgroupMax", "max(", ", ") }}
{{ over_lanes("sum_of", "subgroupAdd", "(", " + ") }}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x * HEADS{{ " + %du" % (first_kv * (n_head // n_head_kv)) if first_kv }};
  let kv = h / {{ n_head // n_head_kv }}u;
  let position = batch[{{ io.n_past }}u];
{% if window %}
  let oldest = max(position + 1u, {{ window }}u) - {{ window }}u;
{% else %}
  let oldest = 0u;
{% endif %}
{% if splits > 1 %}
  let each = (position + 1u - oldest + {{ splits - 1 }}u) / {{ splits }}u;
  let begin = oldest + group.y * each;
  let end = min(begin + each, position + 1u);
{% else %}
  let begin = oldest;
  let end = position + 1u;
{% endif %}
  let rows = {{ "(kv - %du)" % first_kv if first_kv else "kv" }} * {{ n_ctx }}u;  // before this head's
{% if rotated %}
{% if width == head_dim %}
  for (var i = lane; i < HEADS * W4; i += WG) {
    let at = h * D + 4u * i;
    query[i] = vec4<f32>(qkv[at], qkv[at + 1u], qkv[at + 2u], qkv[at + 3u]) * {{ scale }}{{ score.warm(temperature, "position") }};
  }
{% else %}
  for (var i = lane; i < HEADS * W4; i += WG) {
    let from4 = 4u * (i % W4);
    var q = vec4<f32>(0.0);
    for (var d = from4; d < min(from4 + 4u, D); d++) { q[d % 4u] = qkv[(h + i / W4) * D + d] * {{ scale }}{{ score.warm(temperature, "position") }}; }
    query[i] = q;
  }
{% endif %}
  workgroupBarrier();
{% else %}
  let k_at = ({{ n_head }}u + kv) * D;
{% if width > head_dim or width_v > head_dim_v %}
  for (var i = lane; i < {{ q_at }}u + HEADS * W; i += WG) { head[i] = 0.0; }  // not every driver has zeros there
  workgroupBarrier();
{% endif %}
{# Row r is query head r, the last one k #}
{% macro at(r) %}select(h * D + {{ r }} * D, k_at, {{ r }} == HEADS){% endmacro %}
{% macro norm(r, i, behind=false) %}{% if head_eps is not none and behind == norm_behind %} * of_head[{{ r }}] * head_norm[select({{ i }}, D + {{ i }}, {{ r }} == HEADS)]{% endif %}{% endmacro %}
{% if head_eps is not none %}
{% for r in range(heads + 1 if appends else heads) %}
  var square{{ r }} = 0.0;
  for (var i = lane; i < D; i += WG) {
    let x = qkv[{{ at(r ~ "u") }} + i]{{ " * select(1.0, %s, i - %du < %du)" % (magnitude, offset, n_dims) if norm_behind and magnitude != 1.0 }};
    square{{ r }} += x * x;
  }
  let rms{{ r }} = inverseSqrt(sum_of(lane, square{{ r }}, {{ r }}u) / {{ head_dim }}.0 + {{ head_eps }});
  if (lane == 0u) { of_head[{{ r }}] = rms{{ r }}; }
{% endfor %}
  workgroupBarrier();
{% endif %}
{% if mode %}
  for (var i = lane; i < {{ "(HEADS + 1u)" if appends else "HEADS" }} * {{ n_dims // 2 }}u; i += WG) {
    let row = i / {{ n_dims // 2 }}u;
    let pair = i % {{ n_dims // 2 }}u;
    let p = rope_pair(pair);
    let source = {{ at("row") }};
    let x = vec2<f32>(qkv[source + p.x]{{ norm("row", "p.x") }}, qkv[source + p.y]{{ norm("row", "p.y") }});
    let turned = rotate(x, rope_turn(position, pair));
    let to = select({{ q_at }}u + row * W, 0u, row == HEADS);
    head[to + p.x] = turned.x{{ norm("row", "p.x", true) }};
    head[to + p.y] = turned.y{{ norm("row", "p.y", true) }};
  }
{% endif %}
{% if n_dims < head_dim %}
  for (var i = lane; i < {{ "(HEADS + 1u)" if appends else "HEADS" }} * {{ head_dim - n_dims }}u; i += WG) {
    let row = i / {{ head_dim - n_dims }}u;
    let j = {{ "rope_rest(i %% %du)" % (head_dim - n_dims) if mode else "i % D" }};
    head[select({{ q_at }}u + row * W, 0u, row == HEADS) + j] = qkv[{{ at("row") }} + j]{{ norm("row", "j", norm_behind) }};
  }
{% endif %}
{% if type_v and appends %}
  let v_from = {{ (n_head + n_head_kv) * head_dim }}u + kv * {{ head_dim_v }}u;
{% if v_eps is not none %}
  var square_v = 0.0;
  for (var i = lane; i < {{ head_dim_v }}u; i += WG) { square_v += qkv[v_from + i] * qkv[v_from + i]; }
  let rms_v = inverseSqrt(sum_of(lane, square_v, {{ heads + 1 }}u) / {{ head_dim_v }}.0 + {{ v_eps }});
{% endif %}
  for (var i = lane; i < {{ head_dim_v }}u; i += WG) { head[W + i] = qkv[v_from + i]{{ " * rms_v" if v_eps is not none }}; }
{% endif %}
  workgroupBarrier();
{% if appends %}
  let writes = h % {{ n_head // n_head_kv }}u == 0u{{ " && end == position + 1u && begin < end" if splits > 1 }};
  for (var i = lane; i < {{ units }}u; i += WG) {
{% set store = "scales[i] = " if k_unit > 8 or v_unit > 8 else "_ = " %}
{% if not type_v %}
    {{ store }}k_put(rows + cache_row(position), i, i * {{ k_unit }}u, writes);
{% else %}
    if (i < {{ width // k_unit }}u) {
      {{ store }}k_put(rows + cache_row(position), i, i * {{ k_unit }}u, writes);
    } else {
      let j = i - {{ width // k_unit }}u;
      {{ store }}v_put(rows + cache_row(position), j, W + j * {{ v_unit }}u, writes);
    }
{% endif %}
  }
{% endif %}
  for (var i = lane; i < HEADS * W4; i += WG) { query[i] = head4({{ q_at }}u + 4u * i) * {{ scale }}{{ score.warm(temperature, "position") }}; }
  workgroupBarrier();
{% if appends %}
{# Every lane has a part of this token's own key, which would be long for the one that has its position #}
{% for j in range(heads) %}
  var part{{ j }} = 0.0;
  for (var c = lane; c < W4; c += WG) { part{{ j }} += dot(head4(4u * c), query[{{ j }}u * W4 + c]); }
  let own{{ j }} = sum_of(lane, part{{ j }}, {{ j }}u);
{% endfor %}
  workgroupBarrier();
{% endif %}
{% if appends and (k_unit > 8 or v_unit > 8) %}
  if (writes && lane == 0u) {
{% if k_unit > 8 %}
    for (var i = 0u; i < {{ width // k_unit }}u; i++) { k_scales(rows + cache_row(position), i, scales[i]); }
{% endif %}
{% if v_unit > 8 and type_v %}
    for (var i = 0u; i < {{ width_v // v_unit }}u; i++) { v_scales(rows + cache_row(position), i, scales[{{ width // k_unit }}u + i]); }
{% endif %}
  }
{% endif %}

{% endif %}
{% for j in range(heads) %}
{% if sinks %}
{% set first = "group.y == 0u" if splits > 1 else "true" %}
  var top{{ j }} = select(-3.4e38, sinks[h + {{ j }}u], {{ first }});
  var total{{ j }} = select(0.0, 1.0, lane == 0u && {{ first }});
{% else %}
  var top{{ j }} = -3.4e38;
  var total{{ j }} = 0.0;
{% endif %}
  var low{{ j }} = vec4<f32>(0.0);
  var high{{ j }} = vec4<f32>(0.0);
{% endfor %}
  let column = lane % V8;
  let share = lane / V8;
{% set rest = each * groups - workgroup %}{# places of weights behind a step's, which groups read, too; not every driver has zeros there #}
{% if rest > 0 %}
  if (lane < {{ heads * rest }}u) { weight[lane / {{ rest }}u * SPAN + WG + lane % {{ rest }}u] = 0.0; }
{% endif %}
{# Values of `count` positions of a group, from number `from8` (an expression) on, and their sums #}
{% macro ask(from8, count) %}
{% for g in range(count) %}
    let e{{ g }} = {{ v_eight }}(rows + cache_row(first + min(share + ({{ from8 }} + {{ g }}u) * GROUPS, last)), column);
{% endfor %}
{% endmacro %}
{% macro sum(from8, count) %}
{% for g in range(count) %}
{% for j in range(heads) %}
      {
        let w = weight[{{ j }}u * SPAN + share + ({{ from8 }} + {{ g }}u) * GROUPS];
        low{{ j }} += w * e{{ g }}.low;
        high{{ j }} += w * e{{ g }}.high;
      }
{% endfor %}
{% endfor %}
{% endmacro %}
{# Products of `count` pieces of a key, from number `from8` on. Loads first, so that they wait for memory together #}
{% macro products(from8, count) %}
{% for c in range(count) %}
        let e{{ c }} = k_eight(row, {{ from8 }} + {{ c }}u);
{% endfor %}
{% for c in range(count) %}
{% for j in range(heads) %}
        s{{ j }} += e{{ c }}.low * query[{{ j }}u * W4 + 2u * ({{ from8 }} + {{ c }}u)] + e{{ c }}.high * query[{{ j }}u * W4 + 2u * ({{ from8 }} + {{ c }}u) + 1u];
{% endfor %}
{% endfor %}
{% endmacro %}
{# Whatever is done `size` at a time for number `from8` to `end`, as long as there are any below `used` (an expression): in a
   loop, since code that is long takes long to come, where another kernel has run before #}
{% macro in_loop(from8, end, size, used="") %}
{% set whole = (end - from8) // size * size %}
{% if whole == size %}
      {{ "if (%du < %s) " % (from8, used) if used }}{
{{ caller("%du" % from8, size) }}
      }
{% elif whole > 0 %}
      for (var at = {{ from8 }}u; at < {{ "min(%du, %s)" % (from8 + whole, used) if used else "%du" % (from8 + whole) }}; at += {{ size }}u) {
{{ caller("at", size) }}
      }
{% endif %}
{% if from8 + whole < end %}
      {{ "if (%du < %s) " % (from8 + whole, used) if used }}{
{{ caller("%du" % (from8 + whole), end - from8 - whole) }}
      }
{% endif %}
{% endmacro %}
  for (var first = begin; first < end; first += WG) {
    let count = min(WG, end - first);
    let cached = {{ "min(count, position - first)" if appends else "count" }};  // all, or all but this token itself
    let last = max(cached, 1u) - 1u;
{{ ask("0u", [values, each] | min) }}
{% for j in range(heads) %}
    var s{{ j }} = vec4<f32>(0.0);
{% endfor %}
    if (lane < cached) {
      let row = rows + cache_row(first + lane);
{% call(at, count) in_loop(0, width // 8, pieces) %}
{{ products(at, count) }}
{% endcall %}
    }
{% for j in range(heads) %}
{% if appends %}
    s{{ j }} = select(s{{ j }}, vec4<f32>(own{{ j }}, 0.0, 0.0, 0.0), lane == cached);
{% endif %}
    let score{{ j }} = select(-3.4e38, {{ score.cap(softcap, "s%d.x + s%d.y + s%d.z + s%d.w" % (j, j, j, j)) }}, lane < count);
    let most{{ j }} = max(top{{ j }}, max_of(lane, score{{ j }}, {{ j }}u));
    let w{{ j }} = select(0.0, exp(score{{ j }} - most{{ j }}), lane < count);
    weight[{{ j }}u * SPAN + lane] = select(0.0, w{{ j }}, lane < cached);
{% if appends %}
    if (lane == cached) { of_head[{{ j }}] = w{{ j }}; }
{% endif %}
    let fade{{ j }} = exp(top{{ j }} - most{{ j }});
    total{{ j }} = total{{ j }} * fade{{ j }} + w{{ j }};
    low{{ j }} *= fade{{ j }};
    high{{ j }} *= fade{{ j }};
    top{{ j }} = most{{ j }};
{% endfor %}
    workgroupBarrier();
    if (cached > 0u && share < GROUPS) {
{{ sum("0u", [values, each] | min) }}
{% call(at, count) in_loop([values, each] | min, each, values, "(cached + GROUPS - 1u) / GROUPS") %}
{{ ask(at, count) }}
{{ sum(at, count) }}
{% endcall %}
    }
{% if appends %}
    if (cached < count && share == 0u) {
      let v_low = head4({{ v_at }}u + 8u * column);
      let v_high = head4({{ v_at }}u + 8u * column + 4u);
{% for j in range(heads) %}
      low{{ j }} += of_head[{{ j }}] * v_low;
      high{{ j }} += of_head[{{ j }}] * v_high;
{% endfor %}
    }
{% endif %}
    workgroupBarrier();
  }
  // Every group holds its positions' share of the sums: add them up.
{% for j in range(heads) %}
  let norm{{ j }} = sum_of(lane, total{{ j }}, {{ j }}u);
{% if parts < groups %}
{% for n in range(10) if width_v // 8 * 2 ** n < subgroup %}
  low{{ j }} += subgroupShuffleXor(low{{ j }}, {{ width_v // 8 * 2 ** n }}u);
  high{{ j }} += subgroupShuffleXor(high{{ j }}, {{ width_v // 8 * 2 ** n }}u);
{% endfor %}
{% endif %}
{% endfor %}
{% set lanes = workgroup // parts if parts < groups else width_v // 8 %}{# whose sums are one part #}
  if (lane % {{ lanes }}u < V8 && lane / {{ lanes }}u < PARTS) {
    let at = lane / {{ lanes }}u * HEADS * V4 + 2u * column;
{% for j in range(heads) %}
    sums[at + {{ j }}u * V4] = low{{ j }};
    sums[at + {{ j }}u * V4 + 1u] = high{{ j }};
{% endfor %}
  }
  if (lane == 0u) {
{% for j in range(heads) %}
    of_head[{{ j }}] = top{{ j }};
    norms[{{ j }}] = norm{{ j }};
{% endfor %}
  }
  workgroupBarrier();
  for (var i = lane; i < HEADS * V4; i += WG) {
    let j = i / V4;
    var sum = sums[i];
    for (var p = 1u; p < PARTS; p++) { sum += sums[p * HEADS * V4 + i]; }
{% if splits > 1 %}
    let part = ((h + j) * {{ splits }}u + group.y) * (V4 + 1u);
    y[part + i % V4] = sum;
    if (i % V4 == 0u) { y[part + V4] = vec4<f32>(of_head[j], norms[j], 0.0, 0.0); }
{% elif eights %}
    let at = h * V4 + i;
    y[{{ order.vector("at", n_head * head_dim_v) if y_lanes else "at" }}] = sum / norms[j];
{% else %}
{{ order.write_part("(h + j) * %du" % head_dim_v, "4u * (i % V4)", "sum / norms[j]", head_dim_v, n_head, y_lanes) }}{% endif %}
  }
}
