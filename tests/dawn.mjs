// Compiles shaders on Dawn's adapter of no GPU, which has every feature; Tint is Chromium's own compiler.
// usage: node dawn.mjs FOLDER < JSON list of WGSL texts; prints a JSON list of what is wrong with each, or null
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { resolve } from "node:path";

const { create } = createRequire(import.meta.url)(resolve(process.argv[2], "dawn.node"));
const gpu = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
const adapter = await gpu.requestAdapter();
const requiredFeatures = ["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"];
const device = await adapter.requestDevice({ requiredFeatures });

async function wrong(code) {
  device.pushErrorScope("validation");
  device.createShaderModule({ code });
  return (await device.popErrorScope())?.message ?? null;
}

const found = [];
for (const code of JSON.parse(readFileSync(0, "utf8"))) found.push(await wrong(code));
writeFileSync(1, "\n" + JSON.stringify(found) + "\n");
process.exit(0); // Dawn's event loop would go on
