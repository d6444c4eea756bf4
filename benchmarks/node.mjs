// Runs a Python file under Pyodide in Node, with Dawn as navigator.gpu and llamaweb importable: a GPU without a browser.
// usage: node node.mjs DIST SOURCE FILE.py [ARGUMENT ...]
// DIST: a Pyodide distribution folder; SOURCE: a checkout, or a wheel. Needs the npm package webgpu beside this file.
// In Python, await js.openFile(path) gives a local file as a page's File, js.arguments the arguments; this machine's files
// are below /host. DAWN sets Dawn's options, with spaces between them.
import { openSync, readFileSync, readSync, statSync } from "node:fs";
import { basename, resolve } from "node:path";
import { create, globals } from "webgpu";

// A file as the page's File is; Node's own openAsBlob loses what is beyond 4 GiB.
class LocalFile {
  constructor(path, handle = openSync(path), from = 0, to = statSync(path).size) {
    Object.assign(this, { path, handle, from, to, name: basename(path), size: to - from });
  }
  slice(from = 0, to = this.size) {
    return new LocalFile(this.path, this.handle, this.from + from, this.from + to);
  }
  async arrayBuffer() {
    const bytes = new Uint8Array(this.size);
    for (let at = 0; at < this.size; ) at += readSync(this.handle, bytes, at, this.size - at, this.from + at);
    return bytes.buffer;
  }
  stream() {
    let at = 0;
    return new ReadableStream({
      pull: async (controller) => {
        const part = this.slice(at, Math.min(at + (4 << 20), this.size));
        if (part.size) controller.enqueue(new Uint8Array(await part.arrayBuffer()));
        else controller.close();
        at += part.size;
      },
    });
  }
}

Object.assign(globalThis, globals);
// Whole timestamps: rounded to 0.1 ms, as a browser gives them to any page, they say nothing about a dispatch.
const options = process.env.DAWN ?? "backend=vulkan disable-dawn-features=timestamp_quantization";
const gpu = create(options.split(" ").filter(Boolean));
Object.defineProperty(globalThis.navigator, "gpu", { value: gpu, configurable: true });
const [dist, source, file, ...rest] = process.argv.slice(2);
try {
  const { loadPyodide } = await import(resolve(dist, "pyodide.mjs"));
  const pyodide = await loadPyodide({ indexURL: resolve(dist) + "/", packages: ["numpy", "gguf", "jinja2"] });
  pyodide.mountNodeFS("/host", "/");
  if (statSync(source).isDirectory()) pyodide.runPython(`import sys; sys.path.insert(0, "/host${resolve(source)}/src")`);
  else pyodide.unpackArchive(new Uint8Array(readFileSync(source)), "wheel");
  globalThis.openFile = async (path) => new LocalFile(path);
  globalThis.arguments = rest;
  const answer = await pyodide.runPythonAsync(readFileSync(file, "utf8"));
  if (answer !== undefined) console.log(answer);
} catch (error) {
  console.error(String(error.stack ?? error).slice(-4000));
  process.exit(1);
}
process.exit(0);
