// Cuts the chunks of a reader, as a ReadableStream gives one, into pieces of asked-for sizes: the bytes stay in JavaScript.
(reader) => {
  let rest = new Uint8Array(0);
  let passed = 0; // bytes taken
  const next = async () => {
    const { done, value } = await reader.read();
    rest = done ? null : value;
    return !done;
  };
  // The next bytes of at most n, or null at the stream's end
  const take = async (n) => {
    if (rest === null || (rest.length === 0 && !(await next()))) return null;
    const part = rest.subarray(0, n);
    rest = rest.subarray(part.length);
    passed += part.length;
    return part;
  };
  // Writes the next n bytes into a GPU buffer, from its byte `at` on, which is a multiple of 4, with zeros behind them
  // up to the next one. Resolves to how many the stream still had.
  const write = async (queue, buffer, at, n) => {
    const word = new Uint8Array(4); // bytes of a chunk's end that fill no word yet: what is written comes in words
    let held = 0;
    let done = 0;
    for (let part; done < n && (part = await take(n - done)); ) {
      done += part.length;
      if (held) {
        const first = part.subarray(0, 4 - held);
        word.set(first, held);
        held += first.length;
        part = part.subarray(first.length);
        if (held < 4) continue;
        queue.writeBuffer(buffer, at, word);
        at += 4;
      }
      held = part.length % 4;
      const whole = part.length - held;
      if (whole) queue.writeBuffer(buffer, at, part, 0, whole);
      word.set(part.subarray(whole));
      at += whole;
    }
    if (held) queue.writeBuffer(buffer, at, word.fill(0, held));
    return done;
  };
  // Passes over n bytes; resolves to how many the stream still had.
  const skip = async (n) => {
    let at = 0;
    for (let part; at < n && (part = await take(n - at)); ) at += part.length;
    return at;
  };
  return {
    // Passes over `skip` bytes and writes `size` bytes into `buffer` from `at` on, for each of the pieces; where one has
    // a step, `words` are written into `io` and the step is run (replay.js) with as many workgroups.
    // Resolves to how many of all these bytes the stream still had.
    place: async (queue, run, pieces) => {
      const before = passed;
      for (const piece of pieces) {
        await skip(piece.skip);
        if ((await write(queue, piece.buffer, piece.at, piece.size)) < piece.size) break;
        if (!piece.step) continue;
        const [x, y, z] = piece.workgroups;
        queue.writeBuffer(piece.io, 0, new Uint32Array(piece.words));
        run([{ ...piece.step, x, y, z }], 0, 1, 1);
      }
      return passed - before;
    },
    passed: () => passed,
    // The next n bytes, or fewer at the stream's end
    read: async (n) => {
      const found = new Uint8Array(n);
      let at = 0;
      for (let part; at < n && (part = await take(n - at)); at += part.length) found.set(part, at);
      return found.subarray(0, at);
    },
    skip,
    cancel: async () => reader.cancel(),
  };
}
