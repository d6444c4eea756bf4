// A reader of a stream that reads through one buffer, where the browser can: a fresh one for every chunk takes half as
// long again. What it gives holds until the next read.
(stream) => {
  let buffer = new ArrayBuffer(256 << 10);
  let reader;
  try {
    reader = stream.getReader({ mode: "byob" });
  } catch {
    return stream.getReader();
  }
  return {
    async read() {
      const answer = await reader.read(new Uint8Array(buffer));
      buffer = answer.value?.buffer;
      return answer;
    },
    cancel: () => reader.cancel(),
  };
}
