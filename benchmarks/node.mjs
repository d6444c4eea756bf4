// Runs a Python file under Pyodide in Node, with Dawn as navigator.gpu and llamaweb importable: a GPU without a browser.
// usage: node node.mjs DIST WHEEL FILE.py [ARGUMENT ...]      (npm package webgpu; DIST: a Pyodide distribution folder)
// In Python, js.openFile(path) gives a Blob of a local file, js.arguments the arguments. DAWN sets Dawn's options.
import { openAsBlob, readFileSync } from "node:fs";
import { resolve } from "node:path";
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
// Whole timestamps: rounded to 0.1 ms, as a browser gives them to any page, they say nothing about a dispatch.
const options = process.env.DAWN ?? "backend=vulkan,disable-dawn-features=timestamp_quantization";
const gpu = create(options.split(",").filter(Boolean));
Object.defineProperty(globalThis.navigator, "gpu", { value: gpu, configurable: true });
const [dist, wheel, file, ...rest] = process.argv.slice(2);
try {
  const { loadPyodide } = await import(resolve(dist, "pyodide.mjs"));
  const pyodide = await loadPyodide({ indexURL: resolve(dist) + "/", packages: ["numpy", "gguf", "jinja2"] });
  pyodide.unpackArchive(new Uint8Array(readFileSync(wheel)), "wheel");
  globalThis.openFile = (path) => openAsBlob(path);
  globalThis.arguments = rest;
  const answer = await pyodide.runPythonAsync(readFileSync(file, "utf8"));
  if (answer !== undefined) console.log(answer);
} catch (error) {
  console.error(String(error.stack ?? error).slice(-4000));
  process.exit(1);
}
process.exit(0);
