// The rows of x as integers of 8 bits for the packed dot, one invocation for a block of 32: codes as four words for each
// half, [token][block], and behind them the scales d, [block][token], with x = d * code.
{% include "common/packed_dot.wgsl" %}
{% include "common/bindings.wgsl" %}
const NB = {{ k // 32 }}u;
const SCALES = {{ n_tokens * (k // 32) * 8 }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let b = group.x * {{ workgroup }}u + local;
  let t = group.y;
  if (b >= NB || t >= batch[{{ io.n_tokens }}u]) { return; }
  let at = (t * NB + b) * 8u;
  var top = vec4<f32>(0.0);
{% for j in range(8) %}
  let v{{ j }} = x[at + {{ j }}u];
  top = max(top, abs(v{{ j }}));
{% endfor %}
  let largest = max(max(top.x, top.y), max(top.z, top.w));
  let inverse = select(0.0, 127.0 / largest, largest > 0.0);
{% for j in range(8) %}
  y[at + {{ j }}u] = pack4xI8(vec4<i32>(round(v{{ j }} * inverse)));
{% endfor %}
  y[SCALES + b * {{ n_tokens }}u + t] = bitcast<u32>(largest / 127.0);
}
