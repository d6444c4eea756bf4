// The least that loading can be: every byte of some files fetched and written to the GPU as it comes, and nothing else.
// Resolves to the milliseconds until the GPU has them.
(device) => async (urls) => {
  const begin = performance.now();
  const buffers = [];
  for (const url of urls) {
    const response = await fetch(url, { cache: "no-store" });
    if (!response.ok) throw new Error(`${url} answered ${response.status}`);
    const size = Math.ceil(Number(response.headers.get("content-length")) / 4) * 4;
    const buffer = device.createBuffer({ size, usage: GPUBufferUsage.COPY_DST });
    buffers.push(buffer);
    const word = new Uint8Array(4); // bytes that fill no word yet: what is written comes in words
    let at = 0;
    let held = 0;
    for await (const chunk of response.body) {
      const first = held ? Math.min(4 - held, chunk.length) : 0;
      word.set(chunk.subarray(0, first), held);
      held += first;
      if (held === 4) {
        device.queue.writeBuffer(buffer, at, word);
        at += 4;
        held = 0;
      }
      const whole = (chunk.length - first) & ~3;
      if (whole) device.queue.writeBuffer(buffer, at, chunk, first, whole);
      at += whole;
      const rest = chunk.subarray(first + whole);
      if (rest.length) {
        word.set(rest, 0);
        held = rest.length;
      }
    }
    if (held) device.queue.writeBuffer(buffer, at, word);
  }
  await device.queue.onSubmittedWorkDone();
  const ms = performance.now() - begin;
  for (const buffer of buffers) buffer.destroy();
  return ms;
}
