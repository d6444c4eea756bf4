// Fails the n-th call that the package makes to the browser's storage, the network or the GPU, and counts what it has
// open. a `kind` says how it fails:
//
// rejected  its promise is rejected, or it throws, as of a disk or network that is gone
// quota     the same, as of storage that is full
// short     a read or write of a file does half of what it was asked for; a body ends in its middle
// memory    a buffer or query set that WebGPU has no memory for: it is not valid, and an error scope has the error
// none      the browser has no adapter
// lost      the device is said to be lost, and no promise of it is kept any more, as when the GPU's process ends
() => {
  const state = { group: "", kind: "rejected", at: -1, lasting: false, asked: [], hits: 0 };
  const open = new Map(); // what is to be given back, and what it is
  const scopes = new WeakMap(); // of a device: the filters of its error scopes, and errors that we made
  const fetches = []; // signals of the requests whose answers have come

  const errors = {
    storage: () => new DOMException("the disk is gone", "UnknownError"),
    quota: () => new DOMException("the disk is full", "QuotaExceededError"),
    network: () => new TypeError("network error"),
    gpu: () => new DOMException("the instance is gone", "OperationError"),
  };
  // A call belongs to a group, and may fail in some kinds.
  const KINDS = { storage: ["rejected", "quota"], network: ["rejected"], gpu: ["rejected", "lost"] };

  // Counts a call that may fail in the kind under way; whether it is to.
  function fails(group, name, kinds = KINDS[group]) {
    if (state.group !== group || !kinds.includes(state.kind)) return false;
    const number = state.asked.push(name) - 1;
    const lasting = state.lasting || state.kind === "lost";
    const now = state.at >= 0 && (lasting ? number >= state.at : number === state.at);
    if (now) state.hits++;
    return now;
  }
  const error = (group) => errors[state.kind === "quota" ? "quota" : group]();

  function wrap(type, name, make) {
    const real = type.prototype[name];
    if (real) type.prototype[name] = make(real, `${type.name}.${name}`);
  }
  // A call of a group: `async` or not, with what else happens to it when it fails, and when it is done.
  function guard(group, type, names, { sync = false, failed = () => {}, done = (value) => value } = {}) {
    for (const name of names)
      wrap(type, name, (real, label) => function (...args) {
        if (fails(group, label)) {
          failed.call(this, ...args);
          if (sync) throw error(group);
          return Promise.reject(error(group));
        }
        const value = real.apply(this, args);
        return sync ? done.call(this, value) : Promise.resolve(value).then((value) => done.call(this, value));
      });
  }

  guard("storage", StorageManager, ["getDirectory", "estimate"]);
  guard("storage", FileSystemDirectoryHandle, ["getDirectoryHandle", "getFileHandle", "removeEntry"]);
  guard("storage", FileSystemDirectoryHandle, ["keys"], { sync: true });
  guard("storage", FileSystemFileHandle, ["getFile"]);
  const opened = (what) => ({ done: (value) => (open.set(value, what), value) });
  guard("storage", FileSystemFileHandle, ["createSyncAccessHandle"], opened("file handle"));
  guard("storage", FileSystemFileHandle, ["createWritable"], opened("file writer"));
  guard("storage", LockManager, ["request"]);
  guard("storage", Blob, ["text", "arrayBuffer"]);
  guard("storage", FileSystemSyncAccessHandle, ["truncate", "getSize"], { sync: true });
  for (const name of ["read", "write"])
    wrap(FileSystemSyncAccessHandle, name, (real, label) => function (data, options) {
      if (fails("storage", label, ["rejected", "quota", "short"])) {
        const half = real.call(this, data.subarray(0, data.length >> 1), options);
        if (state.kind === "short") return half;
        throw error("storage");
      }
      return real.call(this, data, options);
    });
  wrap(FileSystemSyncAccessHandle, "close", (real) => function () {
    open.delete(this);
    return real.call(this);
  });
  // A writer that has failed is of no more use, as a stream of which a write has failed.
  const { abort } = WritableStream.prototype;
  const over = { failed() { open.delete(this); abort.call(this).catch(() => {}); } };
  guard("storage", FileSystemWritableFileStream, ["write", "seek", "truncate"], over);
  wrap(WritableStream, "close", (real, label) => async function () {
    if (!(this instanceof FileSystemWritableFileStream)) return real.call(this);
    open.delete(this);
    if (!fails("storage", label)) return real.call(this);
    abort.call(this).catch(() => {});
    throw error("storage");
  });
  wrap(WritableStream, "abort", (real) => function (...args) {
    open.delete(this);
    return real.apply(this, args);
  });

  const realFetch = globalThis.fetch;
  globalThis.fetch = async (...args) => {
    if (fails("network", "fetch")) throw error("network");
    const response = await realFetch(...args);
    fetches.push(args[1].signal);
    return response;
  };
  for (const type of [ReadableStreamDefaultReader, ReadableStreamBYOBReader])
    wrap(type, "read", (real, label) => async function (...args) {
      if (fails("network", label, ["rejected", "short"])) {
        if (state.kind !== "short") throw error("network");
        await real.apply(this, args);
        return { done: true, value: args[0]?.subarray(0, 0) };
      }
      return real.apply(this, args);
    });

  // One device for all, which is lost and destroyed in word only: its kernels, all that were compiled, need not be anew.
  let lent = null;
  const compiled = [];
  let loss = Promise.withResolvers();
  const lose = () => {
    loss.resolve({ reason: "unknown", message: "the GPU's process has ended" });
    loss = Promise.withResolvers();
  };
  const gpu = { failed() { if (state.kind === "lost") lose(); } };
  if (globalThis.GPUDevice) {
    wrap(GPU, "requestAdapter", (real, label) => async function (...args) {
      if (!fails("gpu", label, ["rejected", "lost", "none"])) return real.apply(this, args);
      if (state.kind === "none") return null;
      throw error("gpu");
    });
    wrap(GPUAdapter, "requestDevice", (real, label) => async function (...args) {
      if (fails("gpu", label)) {
        gpu.failed();
        throw error("gpu");
      }
      lent ??= await real.apply(this, args);
      open.set(lent, "device");
      return lent;
    });
    guard("gpu", GPUDevice, ["createComputePipelineAsync"], { ...gpu, done: (made) => (compiled.push(made), made) });
    guard("gpu", GPUQueue, ["onSubmittedWorkDone"], gpu);
    guard("gpu", GPUBuffer, ["mapAsync"], gpu);
    wrap(GPUDevice, "pushErrorScope", (real) => function (filter) {
      if (!scopes.has(this)) scopes.set(this, []);
      scopes.get(this).push({ filter, error: null });
      return real.call(this, filter);
    });
    wrap(GPUDevice, "popErrorScope", (real, label) => async function () {
      const ours = scopes.get(this).pop().error;
      const found = real.call(this);
      if (fails("gpu", label)) {
        gpu.failed();
        found.catch(() => {});
        throw error("gpu");
      }
      return ours ?? found;
    });
    // Without memory for it WebGPU gives what is not valid, as of a usage or count that there is not.
    for (const [name, what, wrong] of [["createBuffer", "buffer", { usage: 0 }], ["createQuerySet", "query set", { count: 1 << 20 }]])
      wrap(GPUDevice, name, (real, label) => function (description) {
        if (!fails("gpu", label, ["memory"])) return made.call(this, real.call(this, description), what);
        GPUDevice.prototype.pushErrorScope.call(this, "validation");
        const invalid = real.call(this, { ...description, ...wrong });
        GPUDevice.prototype.popErrorScope.call(this);
        const error = new GPUOutOfMemoryError(`Allocation failed (a ${what}).\n - While calling ${name}.`);
        const scope = scopes.get(this)?.findLast(({ filter }) => filter === "out-of-memory");
        if (scope) scope.error ??= error;
        else this.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
        return invalid;
      });
    const on = new Map(); // what was made on which device
    function made(each, what) {
      open.set(each, what);
      on.set(each, this);
      return each;
    }
    for (const type of [GPUBuffer, GPUQuerySet])
      wrap(type, "destroy", (real) => function () {
        open.delete(this);
        on.delete(this);
        return real.call(this);
      });
    wrap(GPUDevice, "destroy", () => function () {
      open.delete(this);
      for (const [each, device] of on) if (device === this) each.destroy(); // goes with the device
    });
    Object.defineProperty(GPUDevice.prototype, "lost", { get: () => loss.promise });
  }

  const { createObjectURL, revokeObjectURL } = URL;
  URL.createObjectURL = (blob) => {
    const url = createObjectURL.call(URL, blob);
    open.set(url, "blob URL");
    return url;
  };
  URL.revokeObjectURL = (url) => (open.delete(url), revokeObjectURL.call(URL, url));
  const RealWorker = globalThis.Worker;
  globalThis.Worker = class extends RealWorker {
    constructor(...args) {
      super(...args);
      open.set(this, "worker");
    }
    terminate() {
      open.delete(this);
      super.terminate();
    }
  };

  return {
    // From now on call number `at` of the group fails, and with `lasting` all that follow; -1 for none.
    begin: (group, kind, at, lasting) => Object.assign(state, { group, kind, at, lasting, asked: [], hits: 0 }),
    // Names of the calls that may have failed, and how many did; nothing fails any more.
    end: () => {
      const { asked, hits } = state;
      Object.assign(state, { group: "", at: -1 });
      return { asked, hits };
    },
    // What is open, by name.
    left: async () => {
      const { held, pending } = await navigator.locks.query();
      const found = [...open.values(), ...[...held, ...pending].map(() => "lock")];
      found.push(...fetches.filter((signal) => !signal.aborted).map(() => "request"));
      return found.sort();
    },
    forget: () => (open.clear(), fetches.splice(0)),
  };
}
