// A causal convolution of {{ taps }} taps along the tokens: one invocation a channel, which goes through them with the last inputs
// in registers, and keeps these in `state` for the next batch
{% include "common/bindings.wgsl" %}
{% set kept = taps - 1 %}
@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let c = id.x;
  if (c >= {{ channels }}u) { return; }
  let n_tokens = batch[{{ io.n_tokens }}u];
  let begins = batch[{{ io.n_past }}u] == 0u;
{% for j in range(taps) %}
  let w{{ j }} = taps[c * {{ taps }}u + {{ j }}u];
{% endfor %}
{% for j in range(kept) %}
  var x{{ j }} = select(state[c * {{ kept }}u + {{ j }}u], 0.0, begins);
{% endfor %}
  for (var t = 0u; t < n_tokens; t++) {
    let x{{ kept }} = {{ x }}[t * {{ x_pitch }}u + {{ x_first }}u + c];
    y[t * {{ y_pitch }}u + {{ y_first }}u + c] = {% for j in range(taps) %}w{{ j }} * x{{ j }}{{ " + " if not loop.last }}{% endfor %}{{ " + shift[c]" if bias }};
{% for j in range(kept) %}
    x{{ j }} = x{{ j + 1 }};
{% endfor %}
  }
{% for j in range(kept) %}
  state[c * {{ kept }}u + {{ j }}u] = x{{ j }};
{% endfor %}
}
