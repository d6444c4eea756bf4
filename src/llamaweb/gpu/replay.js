// Replays prepared dispatches: one call from Python a batch or token, so that Python's cost does not grow with the
// number of dispatches. A step is {pipeline, group, x, y, z, tile}; with a tile, y is ceil(tokens / tile).
(device) => {
  const encode = (encoder, steps, from, to, tokens) => {
    const pass = encoder.beginComputePass();
    let pipeline = null;
    for (let i = from; i < to; i++) {
      const step = steps[i];
      if (step.pipeline !== pipeline) pass.setPipeline((pipeline = step.pipeline));
      pass.setBindGroup(0, step.group);
      pass.dispatchWorkgroups(step.x, step.tile ? Math.ceil(tokens / step.tile) : step.y, step.z);
    }
    pass.end();
  };
  const read = async (buffer, bytes, view) => {
    await buffer.mapAsync(GPUMapMode.READ, 0, bytes);
    const value = view(buffer.getMappedRange(0, bytes));
    buffer.unmap();
    return value;
  };
  // What is read comes as {there: promise}: where Python stops waiting for a promise that a call gave it, Pyodide takes
  // that for rejected, while the buffer is still being mapped; of one in an object it leaves the end alone.
  return {
    run: (steps, from, to, tokens) => {
      const encoder = device.createCommandEncoder();
      encode(encoder, steps, from, to, tokens);
      device.queue.submit([encoder.finish()]);
    },
    // Runs all steps `repeat` times; reads the u32 at byte `at` of `source` as each run leaves it, a Uint32Array.
    // `slot` is a mappable buffer of at least 4 * repeat bytes.
    sample: (steps, tokens, repeat, source, at, slot) => {
      const encoder = device.createCommandEncoder();
      for (let i = 0; i < repeat; i++) {
        encode(encoder, steps, 0, steps.length, tokens);
        encoder.copyBufferToBuffer(source, at, slot, 4 * i, 4);
      }
      device.queue.submit([encoder.finish()]);
      return { there: read(slot, 4 * repeat, (range) => new Uint32Array(range.slice(0))) };
    },
    // Copies `bytes` bytes on the GPU, behind what was submitted.
    copy: (source, at, target, to, bytes) => {
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(source, at, target, to, bytes);
      device.queue.submit([encoder.finish()]);
    },
    // Reads a copy of `bytes` bytes of `source`.
    readBytes: (source, at, bytes, slot) => {
      const encoder = device.createCommandEncoder();
      encoder.copyBufferToBuffer(source, at, slot, 0, bytes);
      device.queue.submit([encoder.finish()]);
      return { there: read(slot, bytes, (range) => new Uint8Array(range.slice(0))) };
    },
  };
}
