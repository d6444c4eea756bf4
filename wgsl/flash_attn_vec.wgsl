// Attention of one token, one workgroup a query head: rotates q and k, appends k and v to the layer's cache, and
// attends to all positions with an online softmax, {{ workgroup }} positions a step. Heads that share a key-value head
// each round the new k and v for themselves; the first of them writes the cache.
{% include "common/bindings.wgsl" %}
{% include "common/rope.wgsl" %}
const WG = {{ workgroup }}u;
const D = {{ head_dim }}u;
const V8 = {{ head_dim // 8 }}u;  // 16-byte words of a cached row
const GROUPS = {{ groups }}u;  // invocation groups that share the positions of a step when V is summed

var<workgroup> head: array<f32, {{ 3 * head_dim }}>;  // q, k, v of this token
var<workgroup> fresh: array<vec4<u32>, {{ head_dim // 4 }}>;  // this token's k and v as the cache holds them
var<workgroup> weight: array<f32, {{ workgroup }}>;
var<workgroup> partial: array<f32, {{ workgroup }}>;
var<workgroup> sums: array<vec4<f32>, {{ groups * head_dim // 4 }}>;

fn low(v: vec4<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.x), unpack2x16float(v.y)); }
fn high(v: vec4<u32>) -> vec4<f32> { return vec4<f32>(unpack2x16float(v.z), unpack2x16float(v.w)); }
fn pack8(at: u32) -> vec4<u32> {
  return vec4<u32>(pack2x16float(vec2<f32>(head[at], head[at + 1u])), pack2x16float(vec2<f32>(head[at + 2u], head[at + 3u])),
                   pack2x16float(vec2<f32>(head[at + 4u], head[at + 5u])), pack2x16float(vec2<f32>(head[at + 6u], head[at + 7u])));
}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let h = group.x;
  let kv = h / {{ n_head // n_head_kv }}u;
  let position = batch[{{ io.n_past }}u];
  for (var i = lane; i < D; i += WG) {
    head[i] = qkv[h * D + i];
    head[D + i] = qkv[({{ n_head }}u + kv) * D + i];
    head[2u * D + i] = qkv[({{ n_head + n_head_kv }}u + kv) * D + i];
  }
  workgroupBarrier();
  for (var i = lane; i < {{ n_dims // 2 }}u; i += WG) {
    let turn = rope_turn(position, i);
    let p = rope_pair(i);
    let q = rotate(vec2<f32>(head[p.x], head[p.y]), turn);
    let k = rotate(vec2<f32>(head[D + p.x], head[D + p.y]), turn);
    head[p.x] = q.x;
    head[p.y] = q.y;
    head[D + p.x] = k.x;
    head[D + p.y] = k.y;
  }
  workgroupBarrier();
  let cache = kv * {{ n_ctx }}u * V8;
  for (var i = lane; i < 2u * V8; i += WG) {
    let word = pack8(D + i * 8u);
    fresh[i] = word;
    if (h % {{ n_head // n_head_kv }}u == 0u) {
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
  for (var first = 0u; first <= position; first += WG) {
    let j = first + lane;
    var score = -3.4e38;
    if (j <= position) {
      var s = vec4<f32>(0.0);
      for (var i = 0u; i < V8; i++) {
        var word = fresh[i];
        if (j < position) { word = k_cache[cache + j * V8 + i]; }
        s += low(word) * vec4<f32>(head[i * 8u], head[i * 8u + 1u], head[i * 8u + 2u], head[i * 8u + 3u]);
        s += high(word) * vec4<f32>(head[i * 8u + 4u], head[i * 8u + 5u], head[i * 8u + 6u], head[i * 8u + 7u]);
      }
      score = dot(s, vec4<f32>({{ scale }}));
    }
    partial[lane] = score;
    for (var half = WG / 2u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (lane < half) { partial[lane] = max(partial[lane], partial[lane + half]); }
    }
    workgroupBarrier();
    let new_top = max(top, partial[0]);
    let fade = exp(top - new_top);
    top = new_top;
    weight[lane] = select(0.0, exp(score - new_top), j <= position);
    workgroupBarrier();
    total = total * fade;
    acc0 *= fade;
    acc1 *= fade;
    let count = min(WG, position + 1u - first);
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
    y[h * {{ head_dim // 4 }}u + i] = sum / norm;
  }
}
