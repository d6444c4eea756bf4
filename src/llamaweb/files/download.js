// A file at a URL. Several ranges are fetched side by side and come out in the file's order; each goes on from its last
// byte when its connection breaks, with growing pauses. A server without ranges is read from the start in one go, and so
// is one that fails where a range is asked for: a browser then takes no compressed answer, and some give no other.
//
// What a person should read is thrown as an Error of the name DownloadError whose message is one sentence, with the
// `status` of an answer that refuses the file.
//
// Ranges are requested with nothing but `Range`, which needs no CORS preflight (If-Range would, and content networks
// refuse it); that the file is still the same is seen from the size, ETag and Last-Modified of every answer instead.
// The HTTP cache is passed by: it would keep a second copy, and slows ranges down to a third.
//
// Of a file of which no length is told as much is read as its own beginning tells: see whole.js.
(url, name, headers, { attempts, delay, enough, stall, slowest, range, parallel, first }, through, blobOf, length) => {
  const closing = new AbortController();
  const opening = new AbortController(); // of the first answer
  let told = null; // {size, etag, modified, digest, linked, ranged} of the first answer; size is null if it does not say
  let inHand = null; // the first answer itself, while its body is unread
  let forward = null; // the chunks of the first answer: of the file's beginning, or all of it from a server without ranges
  let kept = []; // those that were read
  let all = null; // a Blob of the whole file, of a server that tells no size
  let held = 0; // bytes that have come and were not taken yet
  let peak = 0;
  let plain = false; // whether no ranges are asked for
  let known = false; // whether the content is checked, so that versions need not be told apart

  const failed = (sentence) => Object.assign(new Error(sentence), { name: "DownloadError" });
  const changed = () => failed(`${name} changed on the server while loading; load it again.`);
  const hold = (n) => (peak = Math.max(peak, (held += n)));

  const HANDED = 1 << 20; // most bytes of a range that are handed over at once
  const RETRIED = new Set([408, 425, 429, 500, 502, 503, 504]);
  const NO_RANGES = new Set([400, 405, 406, 412, 501]); // that may mean the range and not the file
  const REMEDIES = {
    401: "it is private or needs a token, or is not there; check the address, ask for access, or give a token",
    403: "it is private or needs a token; ask for access, or give a token",
    404: "check the address",
  };

  const HIDDEN = [
    ": there is no network, or its server refuses the file (401, 403) or pages of other sites (CORS), which browsers do not tell apart",
    ", or download the file and give that",
  ];

  function refusal({ status, statusText, headers }) {
    const answered = `answered ${status} ${statusText}`.trim();
    if (RETRIED.has(status)) {
      const after = headers.get("Retry-After");
      const seconds = /^\d+$/.test(after ?? "") ? Number(after) : (Date.parse(after) - Date.now()) / 1e3;
      return Object.assign(new Error(`it ${answered}`), { status, after: seconds > 0 ? 1e3 * seconds : 0 });
    }
    if (status === 416) return told ? changed() : failed(`${url} is empty; check the address.`);
    const sentence = `${url} ${answered}; ${REMEDIES[status] ?? "check the address"}.`;
    return Object.assign(failed(sentence), { status, unanswered: NO_RANGES.has(status) && !plain });
  }

  // Checks that an answer is of the same file as those before.
  function note(response, size) {
    const now = {
      size,
      etag: response.headers.get("ETag")?.replace(/^W\//, "") ?? null, // of one file some answers may be weak
      modified: response.headers.get("Last-Modified"),
      digest: response.headers.get("Repr-Digest"),
      linked: response.headers.get("X-Linked-ETag"),
      ranged: response.status === 206,
    };
    told ??= now;
    const version = now.etag !== null && told.etag !== null ? "etag" : "modified";
    for (const key of known ? ["size"] : ["size", version]) {
      if (now[key] !== null && told[key] !== null && now[key] !== told[key]) throw changed();
    }
    told.etag ??= now.etag; // what not every answer tells
    told.modified ??= now.modified;
  }

  // An answer that holds byte `from`: {response, request, skip}, where `skip` bytes of its body lie before it.
  async function ask(from, to, signal) {
    const request = new AbortController();
    const options = {
      headers: plain ? headers : { ...headers, Range: `bytes=${from}-${to - 1}` },
      cache: "no-store",
      signal: AbortSignal.any([signal, closing.signal, request.signal]),
    };
    const response = await patiently(fetch(url, options), request);
    if (response.status !== 200 && response.status !== 206) {
      request.abort();
      throw refusal(response);
    }
    try {
      return { request, response, skip: response.status === 206 ? part(response, from) : whole(response, from) };
    } catch (error) {
      request.abort();
      throw error;
    }
  }

  function part(response, from) {
    const content = response.headers.get("Content-Range"); // not every server shows it to other origins
    const [, begin, total] = content?.match(/^bytes (\d+)-\d+\/(\d{1,15}|\*)$/) ?? [];
    if (content && Number(begin) !== from) {
      throw failed(`The server of ${name} answers ranges wrongly (${content.slice(0, 80)}); use another one.`);
    }
    note(response, total === undefined || total === "*" ? null : Number(total));
    return 0;
  }

  function whole(response, from) {
    const told = response.headers.get("Content-Length") ?? "";
    // Of a compressed answer it is another length, and other sites are not shown that it is compressed.
    const decoded = response.headers.get("Content-Encoding") || (plain && response.type === "cors");
    note(response, decoded || !/^\d{1,15}$/.test(told) ? null : Number(told));
    return from;
  }

  // The promise's value; the request is given up where the server is silent for too long.
  async function patiently(promise, request) {
    const silent = new Error(`it was silent for ${stall / 1e3} seconds`);
    const timer = setTimeout(() => request.abort(silent), stall);
    try {
      return await promise;
    } finally {
      clearTimeout(timer);
    }
  }

  // Reads on, and gives up a server of which too little comes for as long as it may be silent.
  function steadily(reader, request) {
    let [waited, came] = [0, 0];
    return async () => {
      const begin = performance.now();
      const next = await patiently(reader.read(), request);
      waited += performance.now() - begin;
      came += next.value?.length ?? 0;
      if (next.done || waited < stall) return next;
      const rate = (1e3 * came) / waited;
      if (rate < slowest) throw new Error(`it sent ${Math.round(rate)} ${Math.round(rate) === 1 ? "byte" : "bytes"} a second`);
      [waited, came] = [0, 0];
      return next;
    };
  }

  const pause = (ms, signal) =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, ms);
      signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
    });

  // What `attempt` yields, tried again until it is through. It adds what came to `state.came`: breaks between which
  // less than `enough` came count, and are paused after, so that a server that drips is given up.
  async function* persist(attempt, signal) {
    const over = AbortSignal.any([signal, closing.signal]);
    const state = { came: 0 };
    let failures = 0;
    for (;;) {
      try {
        yield* attempt(state);
        return;
      } catch (error) {
        if (over.aborted || error.name === "DownloadError") throw error;
        const moved = state.came >= enough;
        failures = moved ? 1 : failures + 1;
        if (moved) state.came = 0;
        // An address that never answered is more likely wrong than unlucky.
        const most = told || error.status ? attempts : Math.min(attempts, 2);
        if (failures >= most) {
          const times = failures === 1 ? "" : ` after ${failures} attempts`;
          const [why, check] = told || error.status ? ["", ""] : HIDDEN;
          const sentence = `${url} cannot be read${times} (${error.message})${why}; check the address and the network${check}.`;
          throw Object.assign(failed(sentence), { unanswered: !told && !error.status });
        }
        if (moved) continue;
        await pause(Math.max(delay * 2 ** (failures - 1), Math.min(error.after ?? 0, 60_000)), over);
      }
    }
  }

  // The bytes from `from` to `to`, chunk by chunk, however often the connection breaks. A chunk holds until the next.
  async function* bytes(from, to, signal) {
    yield* persist(async function* (state) {
      while (from < to) {
        const answer = from === 0 && inHand ? inHand : await ask(from, to, signal);
        inHand = inHand === answer ? null : inHand;
        let { skip } = answer;
        const read = steadily(through(answer.response.body), answer.request);
        try {
          for (;;) {
            const { done, value } = await read();
            if (done) break;
            const start = Math.min(skip, value.length);
            skip -= start;
            const chunk = value.subarray(start, start + to - from);
            if (!chunk.length) continue;
            from += chunk.length;
            state.came += chunk.length;
            yield chunk;
            if (from === to) return;
          }
        } finally {
          answer.request.abort();
        }
        throw new Error(`it ended ${to - from} bytes early`);
      }
    }, signal);
  }

  // A reader, as of a ReadableStream, of ranges that are fetched ahead of it. What it gives holds until the next read:
  // the buffers of ranges are used again.
  function ordered(from, to) {
    const cancelled = new AbortController();
    const ranges = []; // under way, in the file's order
    const size = Math.min(range, to - from);
    const spare = []; // buffers
    const fetchRange = async (range, from, to) => {
      try {
        for await (const chunk of bytes(from, to, cancelled.signal)) {
          range.data.set(chunk, range.filled);
          range.filled += chunk.length;
          hold(chunk.length);
          range.wake();
        }
      } catch (error) {
        range.error = error;
      }
      range.ended = true;
      range.wake();
    };
    const more = () => {
      while (ranges.length < parallel && from < to && !cancelled.signal.aborted) {
        const data = spare.pop() ?? new Uint8Array(size);
        const now = { data, filled: 0, taken: 0, ended: false, error: null, wake: () => {} };
        const end = Math.min(to, from + size);
        ranges.push(now);
        fetchRange(now, from, end);
        from = end;
      }
    };
    const read = async () => {
      for (;;) {
        more();
        const [now] = ranges;
        if (!now) return { done: true };
        if (now.taken < now.filled) {
          const value = now.data.subarray(now.taken, Math.min(now.filled, now.taken + HANDED));
          now.taken += value.length;
          hold(-value.length);
          return { done: false, value };
        }
        if (now.error) throw now.error;
        if (now.ended) spare.push(ranges.shift().data);
        else await new Promise((resolve) => (now.wake = resolve));
      }
    };
    const cancel = () => {
      cancelled.abort();
      for (const { filled, taken } of ranges.splice(0)) hold(taken - filled);
    };
    more(); // whoever opens it may have something to do before he reads
    return { read, cancel };
  }

  // A reader of byte `from` and on, of a server without ranges: what was kept, then the first answer's rest.
  function onward(from) {
    const [before, after] = [kept, forward];
    [kept, forward] = [[], null];
    const chunks = (async function* () {
      let at = 0;
      for (const chunk of before.splice(0)) {
        hold(-chunk.length);
        if (at + chunk.length > from) yield chunk.subarray(Math.max(0, from - at));
        at += chunk.length;
      }
      for await (const chunk of after) {
        if (at + chunk.length > from) yield chunk.subarray(Math.max(0, from - at));
        at += chunk.length;
      }
    })();
    return { read: () => chunks.next(), cancel: () => opening.abort() };
  }

  function reader(from, to) {
    if (told.ranged) return ordered(from, to);
    if (forward) return onward(from);
    const cancelled = new AbortController();
    const chunks = bytes(from, to, cancelled.signal);
    return { read: () => chunks.next(), cancel: () => cancelled.abort() };
  }

  async function collect(reader, length) {
    const found = new Uint8Array(length);
    let at = 0;
    for (let next; at < length && !(next = await reader.read()).done; at += next.value.length) {
      found.set(next.value, at);
    }
    return found;
  }

  return {
    // Asks for the file's start: as `told`.
    async start() {
      if (told) return told;
      const { signal } = opening;
      inHand = await firstAnswer(signal);
      if (told.size === null && told.ranged) {
        told.size = await sizeOfWhole();
        if (told.size === null) {
          inHand.request.abort();
          [inHand, plain, told.ranged] = [null, true, false];
        }
      }
      if (told.size === null) told.size = (all = await blob()).size;
      if (!all) forward = bytes(0, told.ranged ? Math.min(first, told.size) : told.size, signal);
      return told;
    },
    // Bytes `from` to `to` in one array; meant for the header.
    async read(from, to) {
      if (all) return new Uint8Array(await all.slice(from, to).arrayBuffer());
      if (!forward || (told.ranged && to > first)) {
        const source = reader(from, to);
        try {
          return await collect(source, to - from);
        } finally {
          source.cancel();
        }
      }
      let end = kept.reduce((sum, chunk) => sum + chunk.length, 0);
      for (let next; end < to && !(next = await forward.next()).done; end += next.value.length) {
        kept.push(next.value.slice());
        hold(next.value.length);
      }
      const found = new Uint8Array(to - from);
      let at = 0;
      for (const chunk of kept) {
        const piece = chunk.subarray(Math.max(0, from - at), Math.max(0, to - at));
        if (piece.length) found.set(piece, Math.max(0, at - from));
        at += chunk.length;
      }
      if (told.ranged && to >= Math.min(first, told.size)) {
        // Whoever wants them once more asks for them: the headers of many files would add up.
        hold(-end);
        [kept, forward] = [[], null];
      }
      return found;
    },
    // A reader of the bytes from `from` to the file's end.
    open(from) {
      return all ? all.slice(from).stream().getReader() : reader(from, told.size);
    },
    // Told that the content is checked: servers of one file may each name a version of it.
    byContent: () => (known = true),
    peak: () => peak,
    close: () => closing.abort(),
  };

  // All of the file, from its start again after a break: no server says how much is to come.
  async function blob() {
    const { signal } = opening;
    const wholes = persist(async function* () {
      const { request, response } = inHand ?? (await ask(0, first, signal));
      inHand = null;
      try {
        yield await blobOf({ read: steadily(response.body.getReader(), request) }, length, range);
      } finally {
        request.abort();
      }
    }, signal);
    return (await wholes.next()).value;
  }

  async function firstAnswer(signal) {
    const answers = persist(async function* () {
      yield await ask(0, first, signal);
    }, signal);
    try {
      return (await answers.next()).value;
    } catch (error) {
      if (!error.unanswered || signal.aborted) throw error;
      plain = true;
      return ask(0, first, signal).catch(() => {
        throw error;
      });
    }
  }

  // Where ranges come without a word of the whole: its Content-Length, which every site is shown. It is asked for by GET,
  // since an address may be signed for that alone. What is compressed has another length: then no byte is at its end, or
  // one behind it, and null is given.
  async function sizeOfWhole() {
    const request = new AbortController();
    const signal = AbortSignal.any([closing.signal, request.signal]);
    try {
      const response = await patiently(fetch(url, { headers, cache: "no-store", signal }), request);
      const length = response.ok ? Number(response.headers.get("Content-Length")) : 0;
      if (!length) return null;
      const end = await ask(length - 1, length + 1, signal);
      const reader = end.response.body.getReader(); // of a body that may have no end
      let came = 0;
      for (let next; came < 2 && !(next = await patiently(reader.read(), end.request)).done; ) came += next.value.length;
      end.request.abort();
      return end.response.status === 206 && came === 1 ? length : null;
    } catch {
      return null;
    } finally {
      request.abort();
    }
  }
}
