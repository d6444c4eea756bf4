// Cuts the chunks of a reader, as a ReadableStream gives one, into pieces of asked-for sizes, in one reused buffer: the bytes stay in JavaScript.
(reader, capacity) => {
  const buffer = new Uint8Array(capacity);
  let rest = new Uint8Array(0);
  const next = async () => {
    const { done, value } = await reader.read();
    rest = done ? null : value;
    return !done;
  };
  return {
    buffer,
    // Fills the buffer's first n bytes; resolves to how many the stream still had.
    fill: async (n) => {
      let at = 0;
      while (at < n) {
        if (rest === null || (rest.length === 0 && !(await next()))) break;
        const part = rest.subarray(0, n - at);
        buffer.set(part, at);
        rest = rest.subarray(part.length);
        at += part.length;
      }
      return at;
    },
    // Passes over n bytes; resolves to how many the stream still had.
    skip: async (n) => {
      let at = 0;
      while (at < n) {
        if (rest === null || (rest.length === 0 && !(await next()))) break;
        const part = Math.min(rest.length, n - at);
        rest = rest.subarray(part);
        at += part;
      }
      return at;
    },
    cancel: async () => reader.cancel(),
  };
}
