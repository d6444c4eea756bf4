// Moves a chunk of a weight from the file's layout into its planes. job: units of {{ unit }} blocks in the chunk, and the
// weight's block that the chunk begins with. A unit fills whole words of every plane; what a last one has too many
// lands in the planes' own padding.
{% include "common/bindings.wgsl" %}
{% include "common/block.wgsl" %}
{% include "common/raw.wgsl" %}
{% include "formats/" ~ format ~ ".wgsl" %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let n = id.x + id.y * {{ 65535 * workgroup }}u;
  if (n < job[0]) { repack(n * {{ unit * block_bytes }}u, job[1] + n * {{ unit }}u); }
}
