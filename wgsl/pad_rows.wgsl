// Moves whole rows of numbers of {{ bytes }} bytes from the file to where they lie as whole blocks of 32, with zeros behind them.
// job: the words that this gives, the first of them in the weight, and a row's numbers without and with the zeros.
{% include "common/bindings.wgsl" %}
{% include "common/raw.wgsl" %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let n = id.x + id.y * {{ 65535 * workgroup }}u;
  if (n >= job[0]) { return; }
  let words = job[3] * {{ bytes }}u / 4u;  // of a row
  let at = n / words * job[2];
  let column = n % words * {{ 4 // bytes }}u;
  var word = 0u;
{% if bytes == 4 %}
  if (column < job[2]) { word = raw[at + column]; }
{% else %}
  if (column < job[2]) { word = raw_u16(2u * (at + column)); }
  if (column + 1u < job[2]) { word |= raw_u16(2u * (at + column + 1u)) << 16u; }
{% endif %}
  w[job[1] + n] = word;
}
