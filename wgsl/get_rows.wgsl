{% set position = "t - text_begin(t)" if texts else "batch[%du] + t" % io.n_past %}
// y[t] = row {{ {"token": "tokens[t]", "position": "t's position", "row": "t"}[by] }} of the weight{{ ", scaled" if scale != 1.0 }}: one workgroup a token{{ "; here rows %d to %d" % (piece[0], piece[0] + piece[1] - 1) if piece }}
{% include "common/bindings.wgsl" %}
{% import "common/block.wgsl" as w with context %}
{{ w }}
{% if texts %}
{% import "common/texts.wgsl" as of %}
{{ of.declare(texts) }}
{% endif %}
{% include "formats/" ~ format ~ ".wgsl" %}
const NB = {{ k // 32 }}u;

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let t = group.y;
  let row = min({{ {"token": "batch[%du + t]" % io.tokens, "position": position, "row": "t"}[by] }}, {{ rows - 1 }}u);
{% if piece %}
  if (row < {{ piece[0] }}u || row >= {{ piece[0] + piece[1] }}u) { return; }
{% endif %}
  for (var b = lane; b < NB; b += {{ workgroup }}u) {
    let block = load32({{ "(row - %du)" % piece[0] if piece else "row" }} * NB + b);
{% for j in range(8) %}
    y[{{ j ~ "u * NB + b" if y_lanes else "(t * NB + b) * 8u + " ~ j ~ "u" }}] = {{ "(" if scale != 1.0 }}{{ w.part("block.d", j) }} * block.q[{{ j }}] + {{ w.part("block.m", j) }}{{ ") * %s" % scale if scale != 1.0 }};
{% endfor %}
  }
}
