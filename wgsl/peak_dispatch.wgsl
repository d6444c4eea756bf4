// What a dispatch costs by itself: it waits for the one before, whose result it writes anew.
{% include "common/bindings.wgsl" %}

@compute @workgroup_size(1)
fn main() { y[0] += 1u; }
