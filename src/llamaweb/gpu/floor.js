// The yardstick: what a decoded token costs with nothing but a naive float32 product of 4-bit weights, 5 dependent
// dispatches a layer, over random data of a model's shape. No attention, no norm, no sampling; not a limit either.
// shape: {layers, embd, ff, qkv, heads, vocab}, `heads` being the columns of the attention's output.
async (shape, options) => {
  const { R = 4, WG = 128, flight = 50 } = options ?? {};
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter?.features.has("subgroups")) return null;
  const { maxBufferSize, maxStorageBufferBindingSize } = adapter.limits;
  const requiredLimits = { maxBufferSize, maxStorageBufferBindingSize };
  const device = await adapter.requestDevice({ requiredFeatures: ["subgroups"], requiredLimits });
  const lanes = adapter.info.subgroupMaxSize;
  const queue = device.queue;
  const usage = GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST;

  const pipeline = (code) =>
    device.createComputePipelineAsync({ layout: "auto", compute: { module: device.createShaderModule({ code }) } });
  const group = (pipe, buffers) =>
    device.createBindGroup({
      layout: pipe.getBindGroupLayout(0),
      entries: buffers.map((buffer, binding) => ({ binding, resource: { buffer } })),
    });
  const product = (columns, accumulate) => `enable subgroups;
    @group(0) @binding(0) var<storage, read> qs: array<vec4<u32>>;
    @group(0) @binding(1) var<storage, read> ds: array<u32>;
    @group(0) @binding(2) var<storage, read> x: array<vec4<f32>>;
    @group(0) @binding(3) var<storage, read_write> y: array<f32>;
    const BLOCKS = ${columns / 32}u;
    fn dot8(q: u32, a: vec4<f32>, b: vec4<f32>) -> f32 {
      return dot(vec4<f32>(unpack4xU8(q & 0x0f0f0f0fu)), a) + dot(vec4<f32>(unpack4xU8((q >> 4u) & 0x0f0f0f0fu)), b);
    }
    @compute @workgroup_size(${WG})
    fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) l: u32,
            @builtin(subgroup_invocation_id) lane: u32, @builtin(subgroup_size) size: u32) {
      let row0 = (w.x * (${WG}u / size) + l / size) * ${R}u;
      var s: array<f32, ${R}>;
      for (var b = lane; b < BLOCKS; b += size) {
        let at = b * 8u;
        let x0 = x[at]; let x1 = x[at + 1u]; let x2 = x[at + 2u]; let x3 = x[at + 3u];
        let x4 = x[at + 4u]; let x5 = x[at + 5u]; let x6 = x[at + 6u]; let x7 = x[at + 7u];
        let sum = dot(x0 + x1 + x2 + x3 + x4 + x5 + x6 + x7, vec4<f32>(8.0));
        for (var r = 0u; r < ${R}u; r++) {
          let i = (row0 + r) * BLOCKS + b;
          let v = qs[i];
          let pair = unpack2x16float(ds[i >> 1u]);
          let d = select(pair.x, pair.y, (i & 1u) == 1u);
          s[r] += d * (dot8(v.x, x0, x4) + dot8(v.y, x1, x5) + dot8(v.z, x2, x6) + dot8(v.w, x3, x7) - sum);
        }
      }
      for (var r = 0u; r < ${R}u; r++) {
        let t = subgroupAdd(s[r]);
        if (lane == 0u) { y[row0 + r] = ${accumulate ? "y[row0 + r] * 0.5 + " : ""}t * 0.001; }
      }
    }`;
  const random = new Uint32Array(1 << 20).map(() => Math.random() * 4294967296);
  const halves = new Uint32Array(1 << 20).fill(0x20002000);
  const filled = (bytes, data) => {
    const buffer = device.createBuffer({ size: bytes, usage });
    for (let at = 0; at < bytes; at += data.byteLength)
      queue.writeBuffer(buffer, at, data, 0, Math.min(data.length, (bytes - at) / 4));
    return buffer;
  };
  const vector = (n) => filled(8 * Math.max(n, 16384), new Float32Array(2 * Math.max(n, 16384)).fill(0.01));
  const { layers, embd, ff, qkv, heads, vocab } = shape;
  const [hidden, projected, gated, mixed, logits] = [embd, qkv, 2 * ff, ff, vocab].map(vector);

  const pipes = {};
  const steps = [];
  let bytes = 0;
  const multiply = async (rows, columns, x, y, accumulate) => {
    const pipe = (pipes[`${columns} ${accumulate}`] ??= await pipeline(product(columns, accumulate)));
    const weights = filled((rows * columns) / 2, random);
    const scales = filled(Math.ceil(rows * columns / 64) * 4, halves);
    bytes += weights.size + scales.size;
    steps.push([pipe, group(pipe, [weights, scales, x, y]), Math.ceil(rows / ((WG / lanes) * R))]);
  };
  const halve = await pipeline(`@group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read_write> o: array<f32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) g: vec3<u32>) { o[g.x] = a[g.x] * 0.5; }`);
  for (let layer = 0; layer < layers; layer++) {
    await multiply(qkv, embd, hidden, projected, false);
    steps.push([halve, group(halve, [projected, mixed]), Math.ceil(heads / 64)]);
    await multiply(embd, heads, mixed, hidden, true);
    await multiply(2 * ff, embd, hidden, gated, false);
    await multiply(embd, ff, gated, hidden, true);
  }
  await multiply(vocab, embd, hidden, logits, false);
  steps.push([halve, group(halve, [logits, mixed]), 1]);

  const token = () => {
    const encoder = device.createCommandEncoder();
    const pass = encoder.beginComputePass();
    for (const [pipe, bound, workgroups] of steps) {
      pass.setPipeline(pipe);
      pass.setBindGroup(0, bound);
      pass.dispatchWorkgroups(workgroups);
    }
    pass.end();
    queue.submit([encoder.finish()]);
  };
  const run = async (tokens) => {
    const begin = performance.now();
    for (let i = 1; i <= tokens; i++) {
      token();
      if (i % flight === 0) await queue.onSubmittedWorkDone();
    }
    await queue.onSubmittedWorkDone();
    return (performance.now() - begin) / tokens;
  };
  await run(1);
  const first = await run(1);
  const tokens = first > 50 ? 5 : 50; // a software adapter takes its time
  await run(Math.min(tokens, 5));
  const times = [];
  for (let i = 0; i < 3; i++) times.push(await run(tokens));
  device.destroy();
  const ms = times.sort((a, b) => a - b)[1];
  return { ms_per_token: ms, per_second: 1e3 / ms, dispatches: steps.length, bytes };
}
