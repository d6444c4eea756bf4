// Times prepared dispatches (see replay.js) one by one, each in a pass of its own between two timestamps.
(device) => {
  const LIMIT = 2048; // dispatches a query set, which holds 4,096 timestamps
  const part = async (steps, from, to, tokens) => {
    const count = 2 * (to - from);
    const querySet = device.createQuerySet({ type: "timestamp", count });
    const usage = GPUBufferUsage;
    const resolved = device.createBuffer({ size: 8 * count, usage: usage.QUERY_RESOLVE | usage.COPY_SRC });
    const slot = device.createBuffer({ size: 8 * count, usage: usage.COPY_DST | usage.MAP_READ });
    const encoder = device.createCommandEncoder();
    for (let i = from; i < to; i++) {
      const step = steps[i];
      const at = 2 * (i - from);
      const timestampWrites = { querySet, beginningOfPassWriteIndex: at, endOfPassWriteIndex: at + 1 };
      const pass = encoder.beginComputePass({ timestampWrites });
      pass.setPipeline(step.pipeline);
      pass.setBindGroup(0, step.group);
      pass.dispatchWorkgroups(step.x, step.tile ? Math.ceil(tokens / step.tile) : step.y, step.z);
      pass.end();
    }
    encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
    encoder.copyBufferToBuffer(resolved, 0, slot, 0, 8 * count);
    device.queue.submit([encoder.finish()]);
    await slot.mapAsync(GPUMapMode.READ);
    const stamps = new BigInt64Array(slot.getMappedRange().slice(0));
    querySet.destroy();
    resolved.destroy();
    slot.destroy();
    return stamps;
  };
  return {
    // Resolves to nanoseconds for each step, a Float64Array. A step begins when the one before it has ended, whenever
    // the device took its own first timestamp.
    timestamps: async (steps, tokens) => {
      const times = new Float64Array(steps.length);
      for (let from = 0; from < steps.length; from += LIMIT) {
        const to = Math.min(from + LIMIT, steps.length);
        const stamps = await part(steps, from, to, tokens);
        let ended = stamps[0];
        for (let i = from; i < to; i++) {
          const [begin, end] = [stamps[2 * (i - from)], stamps[2 * (i - from) + 1]];
          times[i] = Number(end - (begin > ended ? begin : ended));
          ended = end;
        }
      }
      return times;
    },
  };
}
