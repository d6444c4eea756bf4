// Attention of one token, one workgroup a query head: rotates q and k, appends k and v to the layer's cache, and attends
// to all positions with an online softmax, {{ tile }} positions a step. Heads that share a key-value head each round the
// new k and v for themselves; the first of them writes the cache. With splits, the positions are shared out among as
// many workgroups, and y holds their parts for flash_attn_reduce: sums, then the largest score and the sum of weights.
{% import "common/lanes.wgsl" as order %}
{% if subgroup %}
enable subgroups;
{% endif %}
{% include "common/bindings.wgsl" %}
{% include "common/rope.wgsl" %}
const WG = {{ workgroup }}u;
const TILE = {{ tile }}u;
const D = {{ head_dim }}u;
const V8 = {{ head_dim // 8 }}u;  // 16-byte words of a cached row
const GROUPS = {{ groups }}u;  // invocation groups that share the positions of a step when V is summed

var<workgroup> head: array<f32, {{ 3 * head_dim }}>;  // q, k, v of this token
var<workgroup> query: array<vec4<f32>, {{ head_dim // 4 }}>;
var<workgroup> fresh: array<vec4<u32>, {{ head_dim // 4 }}>;  // this token's k and v as the cache holds them
var<workgroup> weight: array<f32, {{ tile }}>;
var<workgroup> partial: array<f32, {{ workgroup }}>;
var<workgroup> sums: array<vec4<f32>, {{ groups * head_dim // 4 }}>;

fn low(v: vec4<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
fn high(v: vec4<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)); }
fn pack2(at: u32) -> u32 { return pack2x16float(vec2<f32>(head[at], head[at + 1u])); }

// The largest of the lanes' values, for every lane
fn max_of(lane: u32, value: f32) -> f32 {
{% if subgroup %}
  let top = subgroupMax(value);
  if (lane % {{ subgroup }}u == 0u) { partial[lane / {{ subgroup }}u] = top; }
  workgroupBarrier();
  var best = partial[0];
  for (var i = 1u; i < {{ workgroup // subgroup }}u; i++) { best = max(best, partial[i]); }
  return best;
{% else %}
  partial[lane] = value;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { partial[lane] = max(partial[lane], partial[lane + half]); }
  }
  workgroupBarrier();
  return partial[0];
{% endif %}
}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let kv = h / {{ n_head // n_head_kv }}u;
  let position = batch[{{ io.n_past }}u];
{% if splits > 1 %}
  let each = (position + {{ splits }}u) / {{ splits }}u;
  let begin = group.y * each;
  let end = min(begin + each, position + 1u);
{% else %}
  let begin = 0u;
  let end = position + 1u;
{% endif %}
  let q_at = h * D;
  let k_at = ({{ n_head }}u + kv) * D;
  for (var i = lane; i < {{ n_dims // 2 }}u; i += WG) {
    let turn = rope_turn(position, i);
    let p = rope_pair(i);
    let q = rotate(vec2<f32>(qkv[q_at + p.x], qkv[q_at + p.y]), turn);
    let k = rotate(vec2<f32>(qkv[k_at + p.x], qkv[k_at + p.y]), turn);
    head[p.x] = q.x;
    head[p.y] = q.y;
    head[D + p.x] = k.x;
    head[D + p.y] = k.y;
  }
{% if n_dims < head_dim %}
  for (var i = {{ n_dims }}u + lane; i < D; i += WG) {
    head[i] = qkv[q_at + i];
    head[D + i] = qkv[k_at + i];
  }
{% endif %}
  for (var i = lane; i < D; i += WG) { head[2u * D + i] = qkv[k_at + {{ n_head_kv * head_dim }}u + i]; }
  workgroupBarrier();
  let cache = kv * {{ n_ctx }}u * V8;
  for (var i = lane; i < 2u * V8; i += WG) {
    let at = i * 4u;
    query[i] = vec4<f32>(head[at], head[at + 1u], head[at + 2u], head[at + 3u]) * {{ scale }};
    let from8 = D + i * 8u;
    let word = vec4<u32>(pack2(from8), pack2(from8 + 2u), pack2(from8 + 4u), pack2(from8 + 6u));
    fresh[i] = word;
    if (h % {{ n_head // n_head_kv }}u == 0u{{ " && end == position + 1u && begin < end" if splits > 1 }}) {
      if (i < V8) { k_cache[cache + position * V8 + i] = word; } else { v_cache[cache + position * V8 + i - V8] = word; }
    }
  }
  workgroupBarrier();

  var top = -3.4e38;
  var total = 0.0;
  var acc0 = vec4<f32>(0.0);
  var acc1 = vec4<f32>(0.0);
  let column = lane % V8;
  let share = lane / V8;
  for (var first = begin; first < end; first += TILE) {
    let count = min(TILE, end - first);
    var best = top;
    for (var i = lane; i < count; i += WG) {
      let j = first + i;
      var s = vec4<f32>(0.0);
      for (var c = 0u; c < V8; c++) {
        var word = fresh[c];
        if (j < position) { word = k_cache[cache + j * V8 + c]; }
        s += low(word) * query[2u * c] + high(word) * query[2u * c + 1u];
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
      for (var i = share; i < count; i += GROUPS) {
        var word = fresh[V8 + column];
        if (first + i < position) { word = v_cache[cache + (first + i) * V8 + column]; }
        let w = weight[i];
        total += w;
        acc0 += w * low(word);
        acc1 += w * high(word);
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
