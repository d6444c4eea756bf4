// SHA-256 (FIPS 180-4) of a stream, in a worker of its own: WebCrypto digests only what is in memory as a whole.
() => {
  function sha256() {
    const primes = [];
    for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
    const fraction = (x) => ((x % 1) * 2 ** 32) | 0;
    const K = Int32Array.from(primes, (p) => fraction(Math.cbrt(p)));
    const H = Int32Array.from(primes.slice(0, 8), (p) => fraction(Math.sqrt(p)));
    const W = new Int32Array(64);
    const block = new Uint8Array(64);
    let filled = 0; // bytes in the block
    let length = 0; // bytes in all

    function compress(data, at) {
      for (let i = 0; i < 16; i++, at += 4) {
        W[i] = (data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3];
      }
      for (let i = 16; i < 64; i++) {
        const x = W[i - 15];
        const y = W[i - 2];
        const s0 = ((x >>> 7) | (x << 25)) ^ ((x >>> 18) | (x << 14)) ^ (x >>> 3);
        const s1 = ((y >>> 17) | (y << 15)) ^ ((y >>> 19) | (y << 13)) ^ (y >>> 10);
        W[i] = (W[i - 16] + s0 + W[i - 7] + s1) | 0;
      }
      let a = H[0];
      let b = H[1];
      let c = H[2];
      let d = H[3];
      let e = H[4];
      let f = H[5];
      let g = H[6];
      let h = H[7];
      for (let i = 0; i < 64; i++) {
        const s1 = ((e >>> 6) | (e << 26)) ^ ((e >>> 11) | (e << 21)) ^ ((e >>> 25) | (e << 7));
        const t1 = (h + s1 + ((e & f) ^ (~e & g)) + K[i] + W[i]) | 0;
        const s0 = ((a >>> 2) | (a << 30)) ^ ((a >>> 13) | (a << 19)) ^ ((a >>> 22) | (a << 10));
        const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        h = g;
        g = f;
        f = e;
        e = (d + t1) | 0;
        d = c;
        c = b;
        b = a;
        a = (t1 + t2) | 0;
      }
      H[0] += a;
      H[1] += b;
      H[2] += c;
      H[3] += d;
      H[4] += e;
      H[5] += f;
      H[6] += g;
      H[7] += h;
    }

    function update(data) {
      let at = 0;
      length += data.length;
      if (filled) {
        at = Math.min(64 - filled, data.length);
        block.set(data.subarray(0, at), filled);
        filled += at;
        if (filled < 64) return;
        compress(block, 0);
        filled = 0;
      }
      for (; at + 64 <= data.length; at += 64) compress(data, at);
      block.set(data.subarray(at));
      filled = data.length - at;
    }

    function digest() {
      const bits = length * 8;
      const padding = new Uint8Array((filled < 56 ? 64 : 128) - filled);
      padding[0] = 0x80;
      const end = new DataView(padding.buffer, padding.length - 8);
      end.setUint32(0, Math.floor(bits / 2 ** 32));
      end.setUint32(4, bits % 2 ** 32);
      update(padding);
      return Array.from(H, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
    }

    return { update, digest };
  }

  const AHEAD = 8 << 20; // bytes that the worker may be behind
  const SILENCE = 30; // seconds without a word of the worker, which has them done in a tenth of one
  const script = `
    const { update, digest } = (${sha256})();
    onmessage = ({ data }) => postMessage(data ? (update(data), data.length) : digest());
    postMessage("ready");`;
  let behind = 0;
  let wake = () => {};
  let answer = null; // the digest
  let here = null; // where no worker starts
  let worker = null;
  let over = null; // why the worker has ended

  const started = new Promise((resolve) => {
    let ready = false;
    const alone = () => resolve((here = sha256()));
    const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    try {
      worker = new Worker(url);
    } catch {
      return alone();
    } finally {
      URL.revokeObjectURL(url);
    }
    worker.onerror = ({ message }) => (ready ? end(message) : alone());
    worker.onmessage = ({ data }) => {
      if (data === "ready") return resolve((ready = true));
      if (typeof data === "number") behind -= data;
      else answer = data;
      wake();
    };
  });

  function end(reason) {
    over ??= new Error(`the worker that computes its SHA-256 has ended: ${reason}`);
    worker.terminate();
    wake();
  }

  // The next word of the worker. Where a browser has no memory left, it ends one without telling anybody; seconds are
  // counted one by one, as a computer that slept goes on where it was.
  async function word() {
    let seconds = 0;
    const timer = setInterval(() => ++seconds === SILENCE && end(`it was silent for ${SILENCE} seconds`), 1000);
    await new Promise((resolve) => (wake = resolve));
    clearInterval(timer);
    if (over) throw over;
  }

  return {
    async update(data) {
      await started;
      if (here) return here.update(data);
      if (over) throw over;
      const copy = data.slice();
      behind += copy.length;
      worker.postMessage(copy, [copy.buffer]);
      while (behind > AHEAD) await word();
    },
    async digest() {
      await started;
      if (here) return here.digest();
      if (over) throw over;
      worker.postMessage(null);
      while (answer === null) await word();
      return answer;
    },
    close: () => worker?.terminate(),
  };
}
