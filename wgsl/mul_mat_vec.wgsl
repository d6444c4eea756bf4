// y = W x for one token, W quantized: {{ lanes }} lanes share a row, {{ rows_per_group }} rows and {{ blocks }} blocks at once.
//   norm:     x is multiplied by norm_weight / rms(x) on the way; the rms is summed along with the products
//   post_eps: the input is x + post / rms(post) * post_norm_weight, which is kept in `sum` if something else needs it
//   x_lanes, y_lanes, …: x and y are in lane order (common/lanes.wgsl); weights of norms always are
//   by:       where another value's numbers begin, of which the epilogue "by_swiglu" or "by_geglu" takes one with each result
//   epilogue: "store", "add" (y += W x, the residual), "swiglu" or "geglu" (y = silu(gate) * up, or gelu; W is gate above up)
{% import "common/reduce.wgsl" as r %}
{% import "common/vec_product.wgsl" as product with context %}
{% import "common/block_dot.wgsl" as of_block %}
{% set count = rows_per_group + (1 if norm else 0) %}
{% if subgroup %}
enable subgroups;
{% endif %}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% include "formats/" ~ format ~ ".wgsl" %}
{{ product }}
{{ r.declare(subgroup, workgroup, lanes, count) }}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
{{ product.rows() }}{{ product.ahead_of_input("NB") }}{{ product.begin() }}  var acc: array<f32, {{ count }}>;
{% call(w) product.each_block("b", "NB") %}
{{ product.input("slot == 0u") }}{% if norm %}
{{ product.normed("acc[%d]" % rows_per_group) }}{% endif %}
{{ of_block.sums() }}{% for r in range(rows_per_group) %}
      acc[{{ r }}] += {{ of_block.product(w ~ r, split) }};
{% endfor %}
{% endcall %}
{{ r.sum(subgroup, workgroup, lanes, count) }}
  if (lane == 0u) {
{% if norm %}
    let scale = inverseSqrt(acc[{{ rows_per_group }}] / {{ columns }}.0 + {{ eps }});
{% else %}
    let scale = 1.0;
{% endif %}
{{ product.results() }}  }
}
