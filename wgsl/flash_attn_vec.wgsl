// Attention of one token, one workgroup a query head: norms and rotates q and k, appends k and v to the layer's cache,
// and attends to all positions{{ " of the window" if window }} with an online softmax, {{ tile }} positions a step. Heads that share a key-value head
// each round the new k and v for themselves; the first of them writes the cache. With splits, the positions are shared
// out among as many workgroups, and y holds their parts for flash_attn_reduce: sums, then the largest score and the sum
// of weights.
{% import "common/lanes.wgsl" as order %}
{% import "common/cache.wgsl" as cache %}
{% import "cache/" ~ type_k ~ ".wgsl" as k %}
{% import "cache/" ~ type_v ~ ".wgsl" as v %}
{% if subgroup %}
enable subgroups;
{% endif %}
{% include "common/bindings.wgsl" %}
{% include "common/rope.wgsl" %}
const WG = {{ workgroup }}u;
const TILE = {{ tile }}u;
const D = {{ head_dim }}u;
const V8 = {{ head_dim // 8 }}u;
const GROUPS = {{ groups }}u;  // invocation groups that share the positions of a step when V is summed
{% set units = head_dim // k_unit + head_dim // v_unit %}

var<workgroup> head: array<f32, {{ 3 * head_dim }}>;  // q, k, v of this token; k and v as the cache rounds them
var<workgroup> query: array<vec4<f32>, {{ head_dim // 4 }}>;
var<workgroup> weight: array<f32, {{ tile }}>;
var<workgroup> partial: array<f32, {{ workgroup }}>;
var<workgroup> sums: array<vec4<f32>, {{ groups * head_dim // 4 }}>;
{% if k_unit > 8 or v_unit > 8 %}
var<workgroup> scales: array<u32, {{ units }}>;
{% endif %}
{{ cache.helpers(ring) }}
{{ k.load("k", head_dim, k_unit, k_scales) }}
{{ k.store("k", head_dim, k_unit, k_scales, false) }}
{{ v.load("v", head_dim, v_unit, v_scales) }}
{{ v.store("v", head_dim, v_unit, v_scales, false) }}
fn head4(at: u32) -> vec4<f32> { return vec4<f32>(head[at], head[at + 1u], head[at + 2u], head[at + 3u]); }

// Over all lanes, for every lane
{% macro over_lanes(name, builtin, first, second) %}
fn {{ name }}(lane: u32, value: f32) -> f32 {
{% if subgroup %}
  let mine = {{ builtin }}(value);
  if (lane % {{ subgroup }}u == 0u) { partial[lane / {{ subgroup }}u] = mine; }
  workgroupBarrier();
  var all = partial[0];
  for (var i = 1u; i < {{ workgroup // subgroup }}u; i++) { all = {{ first }}all{{ second }}partial[i]); }
  return all;
{% else %}
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
{% if head_eps is not none %}
{{ over_lanes("sum_of", "subgroupAdd", "(", " + ") }}
{% endif %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
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
  let q_at = h * D;
  let k_at = ({{ n_head }}u + kv) * D;
{% if head_eps is not none %}
  var q_square = 0.0;
  var k_square = 0.0;
  for (var i = lane; i < D; i += WG) {
    q_square += qkv[q_at + i] * qkv[q_at + i];
    k_square += qkv[k_at + i] * qkv[k_at + i];
  }
  let q_norm = inverseSqrt(sum_of(lane, q_square) / {{ head_dim }}.0 + {{ head_eps }});
  workgroupBarrier();
  let k_norm = inverseSqrt(sum_of(lane, k_square) / {{ head_dim }}.0 + {{ head_eps }});
{% endif %}
{% macro q_of(i) %}qkv[q_at + {{ i }}]{{ " * q_norm * head_norm[" ~ i ~ "]" if head_eps is not none }}{% endmacro %}
{% macro k_of(i) %}qkv[k_at + {{ i }}]{{ " * k_norm * head_norm[D + " ~ i ~ "]" if head_eps is not none }}{% endmacro %}
  for (var i = lane; i < {{ n_dims // 2 }}u; i += WG) {
    let turn = rope_turn(position, i);
    let p = rope_pair(i);
    let q = rotate(vec2<f32>({{ q_of("p.x") }}, {{ q_of("p.y") }}), turn);
    let k = rotate(vec2<f32>({{ k_of("p.x") }}, {{ k_of("p.y") }}), turn);
    head[p.x] = q.x;
    head[p.y] = q.y;
    head[D + p.x] = k.x;
    head[D + p.y] = k.y;
  }
{% if n_dims < head_dim %}
  for (var i = {{ n_dims }}u + lane; i < D; i += WG) {
    head[i] = {{ q_of("i") }};
    head[D + i] = {{ k_of("i") }};
  }
{% endif %}
  for (var i = lane; i < D; i += WG) { head[2u * D + i] = qkv[k_at + {{ n_head_kv * head_dim }}u + i]; }
  workgroupBarrier();
  let rows = kv * {{ n_ctx }}u;  // before this head's
  let writes = h % {{ n_head // n_head_kv }}u == 0u{{ " && end == position + 1u && begin < end" if splits > 1 }};
  for (var i = lane; i < {{ units }}u; i += WG) {
{% set store = "scales[i] = " if k_unit > 8 or v_unit > 8 else "_ = " %}
    if (i < {{ head_dim // k_unit }}u) {
      {{ store }}k_put(rows + cache_row(position), i, D + i * {{ k_unit }}u, writes);
    } else {
      let j = i - {{ head_dim // k_unit }}u;
      {{ store }}v_put(rows + cache_row(position), j, 2u * D + j * {{ v_unit }}u, writes);
    }
  }
  for (var i = lane; i < {{ head_dim // 4 }}u; i += WG) { query[i] = head4(4u * i) * {{ scale }}; }
  workgroupBarrier();
{% if k_unit > 8 or v_unit > 8 %}
  if (writes && lane == 0u) {
{% if k_unit > 8 %}
    for (var i = 0u; i < {{ head_dim // k_unit }}u; i++) { k_scales(rows + cache_row(position), i, scales[i]); }
{% endif %}
{% if v_unit > 8 %}
    for (var i = 0u; i < {{ head_dim // v_unit }}u; i++) { v_scales(rows + cache_row(position), i, scales[{{ head_dim // k_unit }}u + i]); }
{% endif %}
  }
{% endif %}

  var top = -3.4e38;
  var total = 0.0;
  var acc0 = vec4<f32>(0.0);
  var acc1 = vec4<f32>(0.0);
  let column = lane % V8;
  let share = lane / V8;
  for (var first = begin; first < end; first += TILE) {
    let count = min(TILE, end - first);
    let cached = min(count, position - first);  // the last one, if it is here, is this token itself
    var best = top;
    for (var i = lane; i < count; i += WG) {
      var s = vec4<f32>(0.0);
      if (i < cached) {
        let row = rows + cache_row(first + i);
{# Loads first, so that they wait for memory together #}
{% for from8 in range(0, head_dim // 8, pieces) %}
        {
{% for c in range(from8, [from8 + pieces, head_dim // 8] | min) %}
          let e{{ c }} = k_eight(row, {{ c }}u);
{% endfor %}
{% for c in range(from8, [from8 + pieces, head_dim // 8] | min) %}
          s += e{{ c }}.low * query[{{ 2 * c }}] + e{{ c }}.high * query[{{ 2 * c + 1 }}];
{% endfor %}
        }
{% endfor %}
      } else {
        for (var c = 0u; c < {{ head_dim // 4 }}u; c++) { s += head4(D + 4u * c) * query[c]; }
      }
      let score = s.x + s.y + s.z + s.w;
      weight[i] = score;
      best = max(best, score);
    }
    let new_top = max_of(lane, best);
    let fade = exp(top - new_top);
    top = new_top;
    for (var i = lane; i < count; i += WG) { weight[i] = exp(weight[i] - new_top); }
    workgroupBarrier();
    total *= fade;
    acc0 *= fade;
    acc1 *= fade;
    if (share < GROUPS) {
      for (var i = share; i < cached; i += {{ values }}u * GROUPS) {
{% for g in range(values) %}
        let w{{ g }} = select(0.0, weight[min(i + {{ g }}u * GROUPS, TILE - 1u)], i + {{ g }}u * GROUPS < cached);
        let e{{ g }} = v_eight(rows + cache_row(first + min(i + {{ g }}u * GROUPS, cached - 1u)), column);
{% endfor %}
{% for g in range(values) %}
        total += w{{ g }};
        acc0 += w{{ g }} * e{{ g }}.low;
        acc1 += w{{ g }} * e{{ g }}.high;
{% endfor %}
      }
      if (share == 0u && cached < count) {
        let w = weight[cached];
        total += w;
        acc0 += w * head4(2u * D + 8u * column);
        acc1 += w * head4(2u * D + 8u * column + 4u);
      }
    }
    workgroupBarrier();
  }
  // Every group of invocations holds its positions' share of the sums: add them up.
  if (share < GROUPS) {
    sums[share * 2u * V8 + column * 2u] = acc0;
    sums[share * 2u * V8 + column * 2u + 1u] = acc1;
    if (column == 0u) { partial[share] = total; }
  }
  workgroupBarrier();
  for (var i = lane; i < 2u * V8; i += WG) {
    var sum = vec4<f32>(0.0);
    var norm = 0.0;
    for (var s = 0u; s < GROUPS; s++) {
      sum += sums[s * 2u * V8 + i];
      norm += partial[s];
    }
{% if splits > 1 %}
    let part = (h * {{ splits }}u + group.y) * {{ head_dim // 4 + 1 }}u;
    y[part + i] = sum;
    if (i == 0u) { y[part + {{ head_dim // 4 }}u] = vec4<f32>(top, norm, 0.0, 0.0); }
{% else %}
    let at = h * {{ head_dim // 4 }}u + i;
    y[{{ order.vector("at", n_head * head_dim) if y_lanes else "at" }}] = sum / norm;
{% endif %}
  }
}
