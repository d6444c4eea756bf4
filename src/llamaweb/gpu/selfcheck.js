// Runs the kernels of a self-check over two buffers, `read` and `written` (a dispatch binds a buffer for reading alone or
// for writing), and copies what is to be looked at into `found`.
(device, read, written, found) => {
  const buffers = [read, written];
  return {
    // writes, results: runs of four numbers: buffer, byte in it, byte in `data` or in `found`, bytes.
    run: (data, writes, steps, results) => {
      for (let i = 0; i < writes.length; i += 4)
        device.queue.writeBuffer(buffers[writes[i]], writes[i + 1], data, writes[i + 2], writes[i + 3]);
      const encoder = device.createCommandEncoder();
      const pass = encoder.beginComputePass();
      for (const step of steps) {
        pass.setPipeline(step.pipeline);
        pass.setBindGroup(0, step.group);
        pass.dispatchWorkgroups(step.x, step.y, step.z);
      }
      pass.end();
      for (let i = 0; i < results.length; i += 4)
        encoder.copyBufferToBuffer(buffers[results[i]], results[i + 1], found, results[i + 2], results[i + 3]);
      device.queue.submit([encoder.finish()]);
    },
    // Resolves to a copy of the first bytes of `found`, a Uint8Array.
    take: async (bytes) => {
      await found.mapAsync(GPUMapMode.READ, 0, bytes);
      const copy = new Uint8Array(found.getMappedRange(0, bytes).slice(0));
      found.unmap();
      return copy;
    },
  };
}
