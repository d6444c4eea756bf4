// Files in a folder of the origin's private file system, and locks that all tabs share.
(folderName) => {
  const folder = async () =>
    (await navigator.storage.getDirectory()).getDirectoryHandle(folderName, { create: true });
  const absent = (error) => {
    if (error.name === "NotFoundError") return undefined;
    throw error;
  };
  const PIECE = 1 << 20; // bytes read at once
  const inWorker = () => typeof FileSystemFileHandle.prototype.createSyncAccessHandle === "function";

  // What is made of a synchronous handle, which is closed where that fails: nobody else could open the file any more.
  function made(access, make) {
    try {
      return make();
    } catch (error) {
      access.close();
      throw error;
    }
  }

  function bytes(access, from, to) {
    const found = new Uint8Array(to - from);
    for (let at = 0; at < found.length; ) {
      const size = access.read(found.subarray(at), { at: from + at });
      if (!size) throw new Error("the file ends early");
      at += size;
    }
    return found;
  }

  // Where there are synchronous handles (in a worker), every byte is in the file at once.
  async function syncWriter(handle, fresh) {
    const access = await handle.createSyncAccessHandle();
    let size = made(access, () => {
      if (fresh) access.truncate(0);
      return access.getSize();
    });
    return {
      size: () => size,
      append(chunk) {
        try {
          if (access.write(chunk, { at: size }) < chunk.length) throw new Error("the disk is full");
        } catch (error) {
          access.truncate(size);
          throw error;
        }
        size += chunk.length;
      },
      read: (from, to) => bytes(access, from, to),
      close: async () => access.close(),
    };
  }

  // Bytes `from` to `to` of a file as a Blob has them, read through one buffer by a synchronous handle: that takes a
  // tenth of a Blob's time. What a reader gives holds until its next read.
  const blob = (access, from, to) => ({
    size: to - from,
    slice: (begin = 0, end = to - from) => blob(access, from + begin, Math.min(from + end, to)),
    arrayBuffer: async () => bytes(access, from, to).buffer,
    stream: () => ({
      getReader(options) {
        if (options) throw new TypeError("it has a buffer of its own");
        const buffer = new Uint8Array(Math.min(PIECE, to - from));
        let at = from;
        return {
          async read() {
            const size = access.read(buffer.subarray(0, to - at), { at });
            at += size;
            return size ? { done: false, value: buffer.subarray(0, size) } : { done: true };
          },
          async cancel() {},
        };
      },
    }),
    close: () => access.close(),
  });

  // On a page's main thread: what is written is in the file when it is closed, and until then in a copy of it.
  async function streamWriter(handle, fresh) {
    const before = await handle.getFile();
    const writable = await handle.createWritable({ keepExistingData: !fresh });
    const begin = fresh ? 0 : before.size;
    const recent = []; // chunks since, of the header
    let size = begin;
    await writable.seek(begin).catch(async (error) => {
      await writable.abort();
      throw error;
    });
    return {
      size: () => size,
      async append(chunk, again) {
        await writable.write(chunk);
        if (again) recent.push([size, chunk]);
        size += chunk.length;
      },
      async read(from, to) {
        const found = new Uint8Array(to - from);
        if (from < begin) found.set(new Uint8Array(await before.slice(from, Math.min(to, begin)).arrayBuffer()));
        for (const [at, chunk] of recent) {
          const part = chunk.subarray(Math.max(0, from - at), Math.max(0, to - at));
          if (part.length) found.set(part, Math.max(0, at - from));
        }
        return found;
      },
      close: () => writable.close(),
    };
  }

  return {
    available: () => Boolean(globalThis.navigator?.storage?.getDirectory && navigator.locks),
    // {size(), append(chunk, again), read(from, to), close()} of a file that is made if there is none; `again`: the
    // chunk will be read once more.
    async writer(name, fresh) {
      const handle = await (await folder()).getFileHandle(name, { create: true });
      return inWorker() ? syncWriter(handle, fresh) : streamWriter(handle, fresh);
    },
    // A file to be read, and closed where it can be; undefined if there is none. Where there are no synchronous handles,
    // or none that tabs share, it is a File.
    async open(name) {
      const handle = await (await folder()).getFileHandle(name).catch(absent);
      if (!handle) return undefined;
      const access = inWorker() && (await handle.createSyncAccessHandle({ mode: "read-only" }).catch(() => null));
      return access ? made(access, () => blob(access, 0, access.getSize())) : handle.getFile();
    },
    file: async (name) => (await folder()).getFileHandle(name).then((handle) => handle.getFile(), absent),
    async put(name, text) {
      const writable = await (await (await folder()).getFileHandle(name, { create: true })).createWritable();
      await writable.write(text);
      await writable.close();
    },
    remove: async (name) => (await folder()).removeEntry(name).catch(absent),
    names: async () => Array.fromAsync((await folder()).keys()),
    // A function that gives the lock back; undefined where another tab, or this one, has it.
    lock: (name, mode) =>
      new Promise((resolve, reject) => {
        const held = (lock) => {
          if (!lock) return resolve(undefined);
          return new Promise((release) => resolve(release));
        };
        navigator.locks.request(name, { mode, ifAvailable: true }, held).catch(reject);
      }),
    estimate: () => navigator.storage.estimate(),
    // Asks that what is kept stays; a page can, a worker cannot. The browser remembers the answer, and nobody waits for
    // it: Firefox asks a person, who may never say a word.
    persist() {
      navigator.storage.persist?.().catch((error) => console.info(`The browser may clear its storage: ${error}`));
    },
  };
}
