// y = W x for one token, W quantized: {{ lanes }} lanes share a row, {{ rows_per_group }} rows at once.
//   norm:     x is multiplied by norm_weight / rms(x) on the way; the rms is summed along with the products
//   x_lanes, y_lanes: x and y are in lane order (common/lanes.wgsl); norm_weight always is
//   epilogue: "store", "add" (y += W x, the residual) or "swiglu" (y = silu(gate) * up; W is gate above up)
{% import "common/reduce.wgsl" as r %}
{% import "common/lanes.wgsl" as order %}
{% set count = rows_per_group + (1 if norm else 0) %}
{% if subgroup %}
enable subgroups;
{% endif %}
{% include "common/bindings.wgsl" %}
{% include "common/block.wgsl" %}
{% include "formats/" ~ format ~ ".wgsl" %}
const NB = {{ k // 32 }}u;
{% macro at(j) %}{{ j ~ "u * NB + b" if x_lanes else "b * 8u + " ~ j ~ "u" }}{% endmacro %}
{% set outputs = n // 2 if epilogue == "swiglu" else n %}
const OUT = {{ outputs }}u;
{% set out_per_group = rows_per_group // 2 if epilogue == "swiglu" else rows_per_group %}
{% set place = order.element("o", outputs) if y_lanes else offset ~ "u + o" %}
{{ r.declare(subgroup, workgroup, lanes, count) }}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  let lane = local % {{ lanes }}u;
  let slot = (group.x + group.y * 65535u) * {{ workgroup // lanes }}u + local / {{ lanes }}u;
  let out0 = slot * {{ out_per_group }}u;
{% for i in range(rows_per_group) %}
{% if epilogue == "swiglu" %}
  let row{{ i }} = min(out0 + {{ i % out_per_group }}u, OUT - 1u) + {{ "OUT" if i >= out_per_group else "0u" }};
{% else %}
  let row{{ i }} = min(out0 + {{ i }}u, OUT - 1u);
{% endif %}
{% endfor %}
{% if last_row %}
  let x0 = (batch[{{ io.n_tokens }}u] - 1u) * {{ k // 4 }}u;
{% else %}
  let x0 = 0u;
{% endif %}
  var acc: array<f32, {{ count }}>;
  for (var b = lane; b < NB; b += {{ lanes }}u) {
{% for j in range(8) %}
    var a{{ j }} = x[x0 + {{ at(j) }}];
{% endfor %}
{% if norm %}
    acc[{{ rows_per_group }}] += {% for j in range(8) %}dot(a{{ j }}, a{{ j }}){{ " + " if not loop.last }}{% endfor %};
{% for j in range(8) %}
    a{{ j }} *= norm_weight[{{ j }}u * NB + b];
{% endfor %}
{% endif %}
    let sum = dot({% for j in range(8) %}a{{ j }}{{ " + " if not loop.last }}{% endfor %}, vec4<f32>(1.0));
{% for i in range(rows_per_group) %}
    {
      let w = load32(row{{ i }} * NB + b);
      acc[{{ i }}] += w.d * ({% for j in range(8) %}dot(w.q[{{ j }}], a{{ j }}){{ " + " if not loop.last }}{% endfor %}) + w.m * sum;
    }
{% endfor %}
  }
{{ r.sum(subgroup, workgroup, lanes, count) }}
  if (lane == 0u) {
{% if norm %}
    let scale = inverseSqrt(acc[{{ rows_per_group }}] / {{ k }}.0 + {{ eps }});
{% else %}
    let scale = 1.0;
{% endif %}
{% for i in range(out_per_group) %}
    if (out0 + {{ i }}u < OUT) {
      let o = out0 + {{ i }}u;
      var v = acc[{{ i }}] * scale{{ " + bias[o]" if bias }};
{% if epilogue == "swiglu" %}
      let up = acc[{{ i + out_per_group }}] * scale{{ " + bias[OUT + o]" if bias }};
      v = v / (1.0 + exp(-v)) * up;
{% endif %}
{% if epilogue == "add" %}
      y[{{ place }}] += v;
{% else %}
      y[{{ place }}] = v;
{% endif %}
    }
{% endfor %}
  }
}
