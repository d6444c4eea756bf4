// Moves a chunk of a weight from the file's layout into its planes. job: pairs of blocks in the chunk, and the
// weight's block that the chunk begins with. Blocks go in pairs, as two f16 scales share a word; a pad block
// behind an odd last one lands in the planes' own padding.
{% include "common/bindings.wgsl" %}
{% include "common/block.wgsl" %}
{% include "common/raw.wgsl" %}
{% include "formats/" ~ format ~ ".wgsl" %}

@compute @workgroup_size({{ workgroup }})
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
  let pair = id.x + id.y * {{ 65535 * workgroup }}u;
  if (pair < job[0]) { repack(pair, job[1]); }
}
