// Python in a worker: loads Pyodide and llamaweb, then hands commands to llamaweb.page.worker.
//
// in:  {id, command, params, file}   file: the Files of a model of the page, for commands that load one
//      {id, cancel: true}
// out: {event}                        while starting: ready or error
//      {id, event}                    what the command emits; its last event is a result or an error

async function start() {
  const config = await (await fetch("config.json")).json();
  const wheel = fetch(config.wheel).then((response) => response.arrayBuffer());
  const indexURL = new URL(config.pyodide, self.location.href).href;
  const { loadPyodide } = await import(indexURL + "pyodide.mjs");
  const pyodide = await loadPyodide({ indexURL, packages: ["numpy", "gguf", "jinja2"] });
  pyodide.unpackArchive(await wheel, "wheel");
  return pyodide.pyimport("llamaweb.page.worker");
}

const post = (json) => self.postMessage(JSON.parse(json));
const python = start();

python.then(
  () => self.postMessage({ event: { event: "ready", ms: performance.now() } }),
  (error) => {
    console.error(error);
    const reason = String(error.message ?? error).trim().split("\n").pop();
    const message = `Python did not start in the page: ${reason}`;
    self.postMessage({ event: { event: "error", type: "PageError", message } });
  },
);

self.onmessage = async ({ data }) => {
  try {
    const { id, command, params, file, cancel } = data;
    const worker = await python;
    if (cancel) worker.cancel(id);
    else worker.start(id, command, JSON.stringify(params ?? {}), post, file);
  } catch (error) {
    console.error(error);
    const message = `The command did not start: ${String(error.message ?? error).trim().split("\n").pop()}`;
    self.postMessage({ id: data?.id, event: { event: "error", type: "PageError", message } });
  }
};
