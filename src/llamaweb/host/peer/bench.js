// wllama, timed: window.bench of its page, which the command line calls.
import { Wllama } from "./index.js";

const WORDS = "the quick brown fox jumps over a lazy dog while rain falls on the old stone bridge near our village".split(" ");
const prompt = (tokens, seed) => {
  const words = Array.from({ length: tokens - 4 }, (_, i) => WORDS[(7 * i + seed) % WORDS.length]);
  return `Run ${seed}: ${words.join(" ")}`;
};

// {model, prompt_tokens, gen_tokens, reps, context} => speeds as wllama itself and its user see them
window.bench = async ({ model, prompt_tokens, gen_tokens, reps, context }) => {
  const lines = [];
  const log = (...parts) => lines.push(parts.join(" "));
  const wllama = new Wllama(
    { default: new URL("wasm/wllama.wasm", location).href },
    { logger: { debug: log, log, warn: log, error: log } },
  );
  const file = await (await fetch(model)).blob();
  const begin = performance.now();
  try {
    await wllama.loadModel([file], {
      n_ctx: context, n_batch: 2048, n_gpu_layers: 99999, n_parallel: 1, flash_attn: true,
    });
  } catch (error) {
    throw new Error(`${error} ${lines.slice(-3).join(" ")}`);
  }
  const load_ms = performance.now() - begin;
  const time = async (seed, max_tokens) => {
    const stream = await wllama.createCompletion({
      prompt: prompt(prompt_tokens, seed), max_tokens, temperature: 0, top_k: 1,
      cache_prompt: false, ignore_eos: true, stream: true, timings_per_token: true,
    });
    const times = [];
    let timings = {};
    for await (const chunk of stream) {
      times.push(performance.now());
      timings = chunk.timings ?? timings;
    }
    const decode_per_second = (1e3 * (times.length - 1)) / (times.at(-1) - times[0]);
    return { prefill_per_second: timings.prompt_per_second, decode_per_second, prompt_tokens: timings.prompt_n };
  };
  // It breaks on answers that are not UTF-8, which models with random weights give: then another prompt is tried.
  const runs = [];
  for (let seed = 0, failures = 0; runs.length <= reps; seed++) {
    try {
      runs.push(await time(seed, runs.length ? gen_tokens : Math.min(gen_tokens, 16)));
    } catch (error) {
      if (++failures > 8) throw error;
    }
  }
  runs.shift(); // to warm up
  // It falls back to the CPU without an error: what its log says of buffers tells.
  const on_gpu = lines.some((line) => /WebGPU.*buffer size/i.test(line) && !/ 0\.00 MiB/.test(line));
  const result = { runs, load_ms, on_gpu, webgpu: wllama.isSupportWebGPU(), threads: wllama.getNumThreads() };
  await wllama.exit();
  return result;
};
