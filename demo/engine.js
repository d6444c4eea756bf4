// Commands of llamaweb.page.commands, called from a page: Python runs in worker.js, this end waits for what it answers.

export class EngineError extends Error {
  constructor({ type, message }) {
    super(message);
    this.type = type; // the name of the Python exception
  }
}

export class Engine {
  ready; // a promise: Python has started
  onlate = () => {}; // takes events of commands that have ended: what goes on in the background
  #worker = new Worker("worker.js", { type: "module" });
  #calls = new Map();
  #last = 0;
  #broken = null;
  #isReady;

  constructor() {
    this.ready = new Promise((resolve) => (this.#isReady = resolve));
    this.#worker.onmessage = ({ data: { id, event } }) => {
      if (id === undefined) this.#start(event);
      else this.#take(id, event);
    };
    this.#worker.onerror = (error) => {
      const message = `The page's worker failed (${error.message ?? error.type}); reload the page.`;
      this.#fail({ type: "PageError", message });
    };
  }

  // {id, result}: the result is a promise; progress and text events go to `on`.
  call(command, params, on = () => {}, file = null) {
    const id = ++this.#last;
    const result = new Promise((resolve, reject) => {
      if (this.#broken) return reject(this.#broken);
      this.#calls.set(id, { resolve, reject, on });
      this.#worker.postMessage({ id, command, params, file });
    });
    return { id, result };
  }

  cancel(id) {
    this.#worker.postMessage({ id, cancel: true });
  }

  #start(event) {
    if (event.event === "error") this.#fail(event);
    else this.#isReady();
  }

  #take(id, event) {
    const call = this.#calls.get(id);
    if (!call) return this.onlate(event);
    if (event.event === "result" || event.event === "error") this.#calls.delete(id);
    if (event.event === "result") call.resolve(event);
    else if (event.event === "error") call.reject(new EngineError(event));
    else call.on(event);
  }

  #fail(event) {
    this.#broken = new EngineError(event);
    for (const { reject } of this.#calls.values()) reject(this.#broken);
    this.#calls.clear();
  }
}
