// Commands of llamaweb.page.commands, called from a page: Python runs in worker.js, this end waits for what it answers.
// Python may end, or be ended; the next command finds another one, to which nothing is loaded.

const PATIENCE_MS = 3000; // after which Python that gives no sign of life is ended

export class EngineError extends Error {
  constructor({ type, message, stopped = type === "Cancelled" }) {
    super(message);
    this.type = type; // the name of the Python exception; "PythonEnded" if there is no Python any more
    this.stopped = stopped; // as it was asked to be
  }
}

export class Engine {
  isReady = false; // Python has started
  onready = () => {};
  onended = () => {}; // takes the error with which commands under way, if any, have failed
  onlate = () => {}; // takes events of commands that have ended: what goes on in the background
  #worker = null;
  #calls = new Map();
  #last = 0;

  // {id, result}: the result is a promise; progress and text events go to `on`.
  call(command, params, on = () => {}, file = null) {
    const id = ++this.#last;
    const result = new Promise((resolve, reject) => {
      this.#worker ??= this.#start();
      this.#calls.set(id, { resolve, reject, on, patience: null });
      this.#worker.postMessage({ id, command, params, file });
    });
    return { id, result };
  }

  // A worker that computes for seconds cannot hear of it; it is ended, and what it had loaded is gone.
  cancel(id) {
    const call = this.#calls.get(id);
    if (!call || call.patience) return;
    const message = "Python did not react to being stopped, and was ended.";
    call.patience = setTimeout(() => this.#end({ type: "PythonEnded", message, stopped: true }), PATIENCE_MS);
    this.#worker.postMessage({ id, cancel: true });
  }

  #start() {
    const worker = new Worker("worker.js", { type: "module" });
    worker.onmessage = ({ data: { id, event } }) => {
      if (worker !== this.#worker) return; // it has been ended meanwhile
      if (id !== undefined) this.#take(id, event);
      else if (event.event === "error") this.#end(event);
      else {
        this.isReady = true;
        this.onready();
      }
    };
    worker.onerror = (error) => {
      if (worker !== this.#worker) return;
      this.#end({ type: "PythonEnded", message: `The page's worker failed: ${error.message ?? error.type}.` });
    };
    return worker;
  }

  #take(id, event) {
    const call = this.#calls.get(id);
    if (!call) return this.onlate(event);
    if (event.event === "stopping") return clearTimeout(call.patience);
    if (event.event !== "result" && event.event !== "error") return call.on(event);
    clearTimeout(call.patience);
    this.#calls.delete(id);
    if (event.event === "result") call.resolve(event);
    else call.reject(new EngineError(event));
  }

  #end(event) {
    this.#worker.terminate();
    this.#worker = null;
    this.isReady = false;
    const error = new EngineError(event);
    const calls = [...this.#calls.values()];
    this.#calls.clear();
    for (const { reject, patience } of calls) {
      clearTimeout(patience);
      reject(error);
    }
    this.onended(error);
  }
}
