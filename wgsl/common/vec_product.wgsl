{# What the matrix-vector kernels share: which rows of W and which results are an invocation's, and what becomes of them #}
{% import "common/lanes.wgsl" as order %}
{% import "common/functions.wgsl" as f %}
{% import "common/row_end.wgsl" as end %}
{% import "common/tensor_scale.wgsl" as tensor %}
{% set glu = epilogue in f.glu %}
{% set outputs = n // 2 if glu else n %}
{% set out_per_group = rows_per_group // 2 if glu else rows_per_group %}
{% set place_of_by = order.element("(%su + o)" % by, by_row) if by_lanes else by ~ "u + o" %}
{% set place = order.element("(%su + o)" % offset, y_row) if y_lanes else offset ~ "u + o" %}
{% if epilogue not in ("store", "add") %}
{{ f.functions }}
{% endif %}
{{ end.declare(columns, k) }}const NB = {{ k // 32 }}u;  // blocks of a row
const OUT = {{ outputs }}u;
{% if post_eps is not none or center_eps is not none %}
var<workgroup> sums_of_lanes: array<f32, {{ workgroup // (subgroup or 1) }}>;
fn over_lanes(local: u32, value: f32) -> f32 {
{% if subgroup %}
  let mine = subgroupAdd(value);
{% else %}
  let mine = value;
{% endif %}
  if (local % {{ subgroup or 1 }}u == 0u) { sums_of_lanes[local / {{ subgroup or 1 }}u] = mine; }
  workgroupBarrier();
  var sum = 0.0;
  for (var s = 0u; s < {{ workgroup // (subgroup or 1) }}u; s++) { sum += sums_of_lanes[s]; }
  return sum;
}
{% endif %}
{% macro rows() %}
  let lane = local % {{ lanes }}u;
  let slot = (group.x + group.y * 65535u) * {{ workgroup // lanes }}u + local / {{ lanes }}u;
  let out0 = slot * {{ out_per_group }}u;
{% for i in range(rows_per_group) %}
{% if glu %}
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
{% endmacro %}
{# vec4 j of block b of a vector, in lane order or not #}
{% macro at(j, lanes) %}{{ j ~ " * NB + b" if lanes else "b * 8u + " ~ j }}{% endmacro %}
{% macro read(v, j) %}{{ end.read(columns, k, v, "b * 8u + " ~ j) }}{% endmacro %}
{# For all vec4s of a vector, four at a time: those from c on of block b #}
{% macro everywhere() %}
  for (var i = local; i < 2u * NB; i += {{ workgroup }}u) {
    let b = i / 2u;
    let c = i % 2u * 4u;
{% for j in range(4) %}
{{ caller(j) }}{% endfor %}
  }
{% endmacro %}
{# Before the input is read: with `post_eps`, it is x + post / rms(post) * post_norm_weight, times sum_scale if there is one; with `center_eps`, normed to a
   mean and a variance #}
{% macro begin() %}
{% if post_eps is not none %}
  var square_of_post = 0.0;
{% call(j) everywhere() %}
    let p{{ j }} = {{ read("post[%s]" % at("(c + %du)" % j, post_lanes), "(c + %du)" % j) }};
    square_of_post += dot(p{{ j }}, p{{ j }});
{% endcall %}
  let post_scale = inverseSqrt(over_lanes(local, square_of_post) / {{ columns }}.0 + {{ post_eps }});
{% endif %}
{% if center_eps is not none %}
  var of_x = 0.0;
{% call(j) everywhere() %}
    of_x += dot(vec4<f32>(1.0), {{ read("x[x0 + %s]" % at("(c + %du)" % j, x_lanes), "(c + %du)" % j) }});
{% endcall %}
  let mean = over_lanes(local, of_x) / {{ columns }}.0;
  workgroupBarrier();
  var of_square = 0.0;
{% call(j) everywhere() %}
    let p{{ j }} = {{ read("(x[x0 + %s] - mean)" % at("(c + %du)" % j, x_lanes), "(c + %du)" % j) }};
    of_square += dot(p{{ j }}, p{{ j }});
{% endcall %}
  let deviation = inverseSqrt(over_lanes(local, of_square) / {{ columns }}.0 + {{ center_eps }});
{% endif %}
{% endmacro %}
{% set every = ["0u", "1u", "2u", "3u", "4u", "5u", "6u", "7u"] %}
{# Of the input's block b the vec4s of these numbers, as a0 to a7 or fewer; `first`: who writes the sum #}
{% macro input(first, numbers=every) %}
{% for j in numbers %}
{% set a = "a%d" % loop.index0 %}
    var {{ a }} = {{ read("x[x0 + %s]" % at(j, x_lanes), j) }};
{% if center_eps is not none %}
    {{ a }} = ({{ a }} - mean) * deviation * norm_weight[{{ j }} * NB + b]{{ " + norm_bias[%s * NB + b]" % j if norm_bias }};
{% endif %}
{% if post_eps is not none %}
    {{ a }} += {{ read("post[%s]" % at(j, post_lanes), j) }} * post_norm_weight[{{ j }} * NB + b] * post_scale;
{% if sum_scale %}
    {{ a }} *= sum_scale[0];
{% endif %}
{% endif %}
{% endfor %}
{% if keeps_sum and post_eps is not none %}
    if ({{ first }}) {
{% for j in numbers %}
      sum[{{ at(j, sum_lanes) }}] = a{{ loop.index0 }};
{% endfor %}
    }
{% endif %}
{% endmacro %}
{# Their sum of squares, to `square`, and times the weights of a norm #}
{% macro normed(square, numbers=every) %}
      {{ square }} += {% for j in numbers %}dot(a{{ loop.index0 }}, a{{ loop.index0 }}){{ " + " if not loop.last }}{% endfor %};
{% for j in numbers %}
      a{{ loop.index0 }} *= norm_weight[{{ j }} * NB + b];
{% endfor %}
{% endmacro %}
{# The weights of the lane's first blocks, where they are asked for before the input is there; `count` and `first` as below #}
{% macro ahead_of_input(count, first="") %}
{% if ahead %}
{% for u in range(blocks) %}
{% for r in range(rows_per_group) %}
    let w{{ u }}_{{ r }} = load32(row{{ r }} * NB + {{ first }}min(lane + {{ u * lanes }}u, {{ count }} - 1u));
{% endfor %}
{% endfor %}
{% endif %}
{% endmacro %}
{# Over the lane's blocks of `count`, that lie behind `first`: as many at once as the variant says, whose weights are all
   asked for before the first is used, then the rest one by one, where there can be one. The caller computes with one,
   number `b`, whose weights of row r are in the variable `w ~ r` #}
{% macro each_block(b, count, first="") %}
{% set step = blocks * lanes %}
{% set rest = k // 32 % step or (chunk or step) % step %}
  var i = lane;
{% if ahead %}
{% for u in range(blocks) %}
  {{ "if (i < %s) " % count if rest }}{
    let {{ b }} = i;
{{ caller("w%d_" % u) }}  }
  i += {{ lanes }}u;
{% endfor %}
{% endif %}
{% for at_once in ([blocks, 1] if blocks > 1 and rest else [blocks]) if not (ahead and k // 32 < 2 * step and (at_once > 1 or not rest)) %}
  for (; i{{ " + %du" % ((at_once - 1) * lanes) if at_once > 1 and rest }} < {{ count }}; i += {{ at_once * lanes }}u) {
{% for u in range(at_once) %}
{% for r in range(rows_per_group) %}
    let w{{ u }}_{{ r }} = load32(row{{ r }} * NB + {{ first }}i + {{ u * lanes }}u);
{% endfor %}
{% endfor %}
{% for u in range(at_once) %}
    {
      let {{ b }} = i + {{ u * lanes }}u;
{{ caller("w%d_" % u) }}    }
{% endfor %}
  }
{% endfor %}
{% endmacro %}
{# From acc[0], … and scale #}
{% macro results() %}
{% for i in range(out_per_group) %}
    if (out0 + {{ i }}u < OUT) {
      let o = out0 + {{ i }}u;
      var v = {{ "(" if factor }}acc[{{ i }}] * scale{{ tensor.of(scaled, "o") }}{{ " + bias[o]" if bias }}{{ ") * %s" % factor if factor }};
{% if glu %}
      let up = acc[{{ i + out_per_group }}] * scale{{ tensor.of(scaled, "OUT + o") }}{{ " + bias[OUT + o]" if bias }};
      v = op_{{ epilogue }}(v, up);
{% elif by is not none %}
      v = op_{{ epilogue[3:] }}(v, by[{{ place_of_by }}]);
{% elif epilogue not in ("store", "add") %}
      v = op_{{ epilogue }}(v);
{% endif %}
{% if epilogue == "add" %}
      y[{{ place }}] += v;
{% else %}
      y[{{ place }}] = v;
{% endif %}
    }
{% endfor %}
{% endmacro %}
