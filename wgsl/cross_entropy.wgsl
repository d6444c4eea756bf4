// For each row of logits: the log-probability of its target, and the most likely token, which is NO_TOKEN where a logit is
// NaN or infinite, or all are -infinity (one may be). One workgroup a row.
{% include "common/bindings.wgsl" %}
const NO_TOKEN = 0xffffffffu;
const WG = {{ workgroup }}u;
const N = {{ n }}u;
var<workgroup> best: array<f32, {{ workgroup }}>;
var<workgroup> at: array<u32, {{ workgroup }}>;
var<workgroup> sums: array<f32, {{ workgroup }}>;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
  var top = -3.4e38;
  var top_at = NO_TOKEN;
  var most = 0u;  // the largest without its sign, as bits: those of NaN are above infinity's
  for (var i = lane; i < N; i += WG) {
    let v = logits[t * N + i];
    if (v > top) { top = v; top_at = i; }
    most = max(most, bitcast<u32>(v) & 0x7fffffffu);
  }
  if (most > 0x7f800000u || bitcast<u32>(top) == 0x7f800000u) {
    top = 3.4028234e38;  // above what the other lanes found
    top_at = NO_TOKEN;
  }
  best[lane] = top;
  at[lane] = top_at;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) {
      let o = lane + half;
      if (best[o] > best[lane] || (best[o] == best[lane] && at[o] < at[lane])) { best[lane] = best[o]; at[lane] = at[o]; }
    }
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = lane; i < N; i += WG) { sum += exp(logits[t * N + i] - best[0]); }
  sums[lane] = sum;
  for (var half = WG / 2u; half > 0u; half >>= 1u) {
    workgroupBarrier();
    if (lane < half) { sums[lane] += sums[lane + half]; }
  }
  workgroupBarrier();
  if (lane == 0u) {
    let target_token = min(batch[{{ targets }}u + t], N - 1u);
    batch[{{ results }}u + 2u * t] = bitcast<u32>(logits[t * N + target_token] - best[0] - log(sums[0]));
    batch[{{ results }}u + 2u * t + 1u] = at[0];
  }
}
