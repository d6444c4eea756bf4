// Of a token's experts, the {{ used }} with the largest probabilities, and their weights: one workgroup a token. An expert's place
// is the number of those before it.
{% include "common/bindings.wgsl" %}
const WG = {{ workgroup }}u;
const E = {{ n_expert }}u;
const USED = {{ used }}u;
const NONE = -3.4e38;  // below every probability
{% set (n_group, used_groups) = groups %}
{% set size = n_expert // n_group %}

var<workgroup> prob: array<f32, {{ n_expert }}>;
var<workgroup> chosen: array<f32, {{ used }}>;
{% if bias or n_group > 1 %}
var<workgroup> choice: array<f32, {{ n_expert }}>;  // what is chosen by
{% endif %}
{% if n_group > 1 %}
var<workgroup> of_group: array<f32, {{ n_group }}>;
{% endif %}
{% set by = "choice" if bias or n_group > 1 else "prob" %}
{# How many of `count` values of an array come before number `i` #}
{% macro rank(name, i, values, count) %}
    var {{ name }} = 0u;
    for (var o = 0u; o < {{ count }}u; o++) {
      {{ name }} += u32({{ values }}[o] > {{ values }}[{{ i }}] || ({{ values }}[o] == {{ values }}[{{ i }}] && o < {{ i }}));
    }
{% endmacro %}
{# e to the power of each of `count` values of an array less the largest, over their sum: what `each` does with number i #}
{% macro softmax(values, count) %}
  var top = {{ values }}[0];
  for (var o = 1u; o < {{ count }}; o++) { top = max(top, {{ values }}[o]); }
  var sum = 0.0;
  for (var o = 0u; o < {{ count }}; o++) { sum += exp({{ values }}[o] - top); }
{% endmacro %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) local: u32) {
  for (var i = local; i < E; i += WG) {
    let logit = x[group.y * {{ x_pitch }}u + {{ x_first }}u + i];
    prob[i] = {{ "1.0 / (1.0 + exp(-logit))" if gating == "sigmoid" else "logit" }};
  }
  workgroupBarrier();
{% if gating == "softmax" %}
  {
{{ softmax("prob", "E") }}
  workgroupBarrier();
  for (var i = local; i < E; i += WG) { prob[i] = exp(prob[i] - top) / sum; }
  }
  workgroupBarrier();
{% endif %}
{% if by == "choice" %}
  for (var i = local; i < E; i += WG) { choice[i] = prob[i]{{ " + probs_bias[i]" if bias }}; }
  workgroupBarrier();
{% endif %}
{% if n_group > 1 %}
  for (var i = local; i < {{ n_group }}u; i += WG) {
    var best = vec2<f32>(NONE);
    for (var e = i * {{ size }}u; e < (i + 1u) * {{ size }}u; e++) {
      best = vec2<f32>(max(best.x, choice[e]), max(best.y, min(best.x, choice[e])));
    }
    of_group[i] = best.x + {{ "best.y" if size > 1 else "0.0" }};
  }
  workgroupBarrier();
  for (var i = local; i < E; i += WG) {
    let mine = i / {{ size }}u;
{{ rank("before", "mine", "of_group", n_group) }}
    if (before >= {{ used_groups }}u) { choice[i] = NONE; }
  }
  workgroupBarrier();
{% endif %}
  let to = group.y * {{ y_pitch }}u;
  for (var i = local; i < E; i += WG) {
{{ rank("place", "i", by, n_expert) }}
    if (place < USED) {
      y[to + place] = i;
      chosen[place] = prob[i];
    }
  }
  workgroupBarrier();
{% if gating == "softmax_weight" %}
{{ softmax("chosen", "USED") }}
  workgroupBarrier();
  for (var i = local; i < USED; i += WG) { chosen[i] = exp(chosen[i] - top) / sum; }
  workgroupBarrier();
{% endif %}
{% if norm %}
  var total = 0.0;
  for (var i = 0u; i < USED; i++) { total += chosen[i]; }
  total = max(total, 6.103515625e-5);  // the smallest normal f16
{% endif %}
  for (var i = local; i < USED; i += WG) {
    y[to + USED + i] = bitcast<u32>(chosen[i]{{ " / total" if norm }} * {{ scale }});
  }
}
