// Runs prepared dispatches (see replay.js) over and over in one pass between two timestamps, so that how coarsely a
// browser rounds its timestamps, and how long commands take to reach the GPU, are small beside what is timed.
// `resolved` and `slot` are buffers of 16 bytes: for QUERY_RESOLVE and COPY_SRC, and for COPY_DST and MAP_READ.
(device, resolved, slot) => {
  let querySet;
  return {
    // Resolves to the nanoseconds of the whole pass.
    run: async (steps, tokens, repeats) => {
      querySet ??= device.createQuerySet({ type: "timestamp", count: 2 });
      const encoder = device.createCommandEncoder();
      const timestampWrites = { querySet, beginningOfPassWriteIndex: 0, endOfPassWriteIndex: 1 };
      const pass = encoder.beginComputePass({ timestampWrites });
      for (let i = 0; i < repeats; i++) {
        for (const step of steps) {
          pass.setPipeline(step.pipeline);
          pass.setBindGroup(0, step.group);
          pass.dispatchWorkgroups(step.x, step.tile ? Math.ceil(tokens / step.tile) : step.y, step.z);
        }
      }
      pass.end();
      encoder.resolveQuerySet(querySet, 0, 2, resolved, 0);
      encoder.copyBufferToBuffer(resolved, 0, slot, 0, 16);
      device.queue.submit([encoder.finish()]);
      await slot.mapAsync(GPUMapMode.READ);
      const [begin, end] = new BigInt64Array(slot.getMappedRange());
      slot.unmap();
      return Number(end - begin);
    },
    close: () => {
      querySet?.destroy();
      querySet = undefined;
    },
  };
}
