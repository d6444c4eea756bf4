// Makes a step for replay.js. All that it is made of comes in one call: each object from Python would cost as much again.
// ranges: offset and size of each buffer's bytes; x, y, z: workgroups; tile: tokens that y counts, or 0.
(device) => (label, layout, pipeline, buffers, ranges, x, y, z, tile) => {
  const entries = buffers.map((buffer, binding) => ({
    binding,
    resource: { buffer, offset: ranges[2 * binding], size: ranges[2 * binding + 1] },
  }));
  return { pipeline, group: device.createBindGroup({ label, layout, entries }), x, y, z, tile };
}
