// A download of `size` bytes on its way: written to a file as it comes, where there is a `writer`, and checked against a
// `sha256`, where one is known. What the file has already is not fetched again.
(download, name, size, writer, hash, sha256) => {
  const PIECE = 4 << 20; // bytes read from the file at once
  const state = { full: undefined, verified: false, bad: false };
  const stored = () => (writer ? writer.size() : 0);

  async function keep(chunk, again) {
    if (!writer || state.full) return;
    try {
      await writer.append(chunk, again);
    } catch (error) {
      state.full = String(error.message ?? error);
    }
  }

  async function check(chunk, end) {
    if (!hash || state.verified) return;
    await hash.update(chunk);
    if (end < size) return;
    const found = await hash.digest();
    state.verified = found === sha256;
    state.bad = !state.verified;
    if (!state.bad) return;
    const message = `${name} is damaged: its SHA-256 is ${found}, not ${sha256}; load it again.`;
    throw Object.assign(new Error(message), { name: "DownloadError" });
  }

  async function read(from, to) {
    if (to > stored()) {
      const begin = state.full || !writer ? from : stored();
      const found = await download.read(begin, to);
      await keep(found, true);
      if (to > stored()) return begin === from ? found : read(from, to);
    }
    return writer.read(from, to);
  }

  return {
    state,
    read,
    // A reader of the bytes from `from` to the end.
    open(from) {
      let remote = null;
      let at = hash ? 0 : from;
      const next = async () => {
        if (at < from) return { done: false, value: await read(at, Math.min(from, at + PIECE)) };
        if (at < stored()) return { done: false, value: await writer.read(at, Math.min(stored(), at + PIECE)) };
        if (at >= size) return { done: true };
        remote ??= download.open(at);
        const answer = await remote.read();
        if (!answer.done && at === stored()) await keep(answer.value);
        return answer;
      };
      return {
        async read() {
          for (;;) {
            const { done, value } = await next();
            if (done) return { done };
            at += value.length;
            await check(value, at);
            if (at > from) return { done, value };
          }
        },
        cancel: () => remote?.cancel(),
      };
    },
  };
}
