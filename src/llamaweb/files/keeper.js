// A download of `size` bytes on its way: written to a file as it comes, where there is a `writer`, and checked against a
// `sha256`, where one is known. What the file has already is not fetched again.
(download, name, size, writer, hash, sha256) => {
  const PIECE = 4 << 20; // bytes read from the file at once
  const state = { full: undefined, verified: false, bad: false };
  const stored = () => (writer && !state.bad ? writer.size() : 0);

  async function keep(chunk, again) {
    if (!writer || state.full) return;
    try {
      await writer.append(chunk, again);
    } catch (error) {
      state.full = String(error.message ?? error);
    }
  }

  // Bytes that the file has; null where it does not give them, and is not used any more.
  async function own(from, to) {
    try {
      return await writer.read(from, to);
    } catch (error) {
      state.full ??= String(error.message ?? error);
      state.bad = true;
      return null;
    }
  }

  const failed = (sentence) => Object.assign(new Error(sentence), { name: "DownloadError" });

  async function check(chunk, end) {
    if (!hash || state.verified) return;
    let found;
    try {
      await hash.update(chunk);
      if (end < size) return;
      found = await hash.digest();
    } catch (error) {
      throw failed(`${name} could not be checked (${error.message}); load it again.`);
    }
    state.verified = found === sha256;
    if (state.verified) return;
    state.bad = true;
    throw failed(`${name} is damaged: its SHA-256 is ${found}, not ${sha256}; load it again.`);
  }

  async function read(from, to) {
    if (to > stored()) {
      const begin = state.full || !writer ? from : stored();
      const found = await download.read(begin, to);
      await keep(found, true);
      if (to > stored()) return begin === from ? found : read(from, to);
    }
    return (await own(from, to)) ?? read(from, to);
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
        const value = at < stored() ? await own(at, Math.min(stored(), at + PIECE)) : null;
        if (value) return { done: false, value };
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
