// Python in a worker: loads Pyodide and llamaweb, then hands commands to llamaweb.page.worker.
//
// in:  {id, command, params, file}   file: the Files of a model of the page, for commands that load one
//      {id, cancel: true}
// out: {event}                        ready; or an error: Python did not start, or has ended (PythonEnded)
//      {id, event}                    what the command emits; its last event is a result or an error.
//                                     "stopping" says that it has heard of being cancelled

async function start() {
  const config = await (await fetch("config.json")).json();
  const wheel = fetch(config.wheel).then((response) => response.arrayBuffer());
  const indexURL = new URL(config.pyodide, self.location.href).href;
  const { loadPyodide } = await import(indexURL + "pyodide.mjs");
  const pyodide = await loadPyodide({ indexURL, packages: ["numpy", "gguf", "jinja2"] });
  // Python cannot go on after an error in WebAssembly itself, as when it recurses too deeply; nobody would be told.
  pyodide._api.on_fatal = ended;
  if (pyodide.version.startsWith("0.")) callPlainly(pyodide._module);
  pyodide.unpackArchive(await wheel, "wheel");
  return pyodide.pyimport("llamaweb.page.worker");
}

// Pyodide 0.29 leaves 16 bytes of Python's stack behind for each callback of the event loop that it calls so that it may
// block, and Python ends when none are left, after some 400,000 tokens (https://github.com/pyodide/pyodide/issues/6249).
// Nothing blocks in this worker.
function callPlainly(module) {
  module.callPyObjectMaybePromising = async (callable, args) => module.callPyObject(callable, args);
}

function ended(error) {
  const message = `Python in the page has ended (${reasonOf(error)}).`;
  self.postMessage({ event: { event: "error", type: "PythonEnded", message } });
}

const reasonOf = (error) => String(error?.message ?? error).trim().split("\n").pop();
const post = (json) => self.postMessage(JSON.parse(json));
const python = start();

python.then(
  () => self.postMessage({ event: { event: "ready", ms: performance.now() } }),
  (error) => {
    console.error(error);
    const message = `Python did not start in the page: ${reasonOf(error)}`;
    self.postMessage({ event: { event: "error", type: "PageError", message } });
  },
);

self.onmessage = async ({ data }) => {
  try {
    const { id, command, params, file, cancel } = data;
    if (cancel) self.postMessage({ id, event: { event: "stopping" } });
    const worker = await python;
    if (cancel) worker.cancel(id);
    else worker.start(id, command, JSON.stringify(params ?? {}), post, file);
  } catch (error) {
    console.error(error);
    const message = `The command did not start: ${reasonOf(error)}`;
    self.postMessage({ id: data?.id, event: { event: "error", type: "PageError", message } });
  }
};
