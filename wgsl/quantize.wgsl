// The rows of x as integers of {{ bits }} bits for the packed dot, one invocation for a block of 32, with x = d * code:
// {{ "bytes" if bits == 8 else "first the high bytes, 256 * high + low = code, then the low ones" }} as words, [token][block], and behind them the scales d, [block][token].
{% set largest = 127 if bits == 8 else 32512 %}
{% include "common/packed_dot.wgsl" %}
{% include "common/bindings.wgsl" %}
const NB = {{ k // 32 }}u;
const SCALES = {{ n_tokens * (k // 32) * bits }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let b = group.x * {{ workgroup }}u + local;
  let t = group.y;
  if (b >= NB || t >= batch[{{ io.n_tokens }}u]) { return; }
  let from_x = (t * NB + b) * 8u;
  let to_y = (t * NB + b) * {{ bits }}u;
  var top = vec4<f32>(0.0);
{% for j in range(8) %}
  let v{{ j }} = x[from_x + {{ j }}u];
  top = max(top, abs(v{{ j }}));
{% endfor %}
  let largest = max(max(top.x, top.y), max(top.z, top.w));
  let inverse = select(0.0, {{ largest }}.0 / largest, largest > 0.0);
{% for j in range(8) %}
  let q{{ j }} = vec4<i32>(round(v{{ j }} * inverse));
{% if bits == 16 %}
  y[to_y + {{ j }}u] = pack4xI8((q{{ j }} + 128) >> vec4<u32>(8u));
  y[to_y + {{ j + 8 }}u] = pack4xI8(q{{ j }});
{% else %}
  y[to_y + {{ j }}u] = pack4xI8(q{{ j }});
{% endif %}
{% endfor %}
  y[SCALES + b * {{ n_tokens }}u + t] = bitcast<u32>(largest / {{ largest }}.0);
}
