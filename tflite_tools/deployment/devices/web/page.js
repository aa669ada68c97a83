// Runs a model on WebGPU on every input that the server has, and sends back the raw outputs.

const { loadAndCompile, loadLiteRt, Tensor } = self.liteRtRuntime;
const TYPED_ARRAYS = { uint8: Uint8Array, int8: Int8Array, float32: Float32Array };
const said = []; // what the runtime writes to the console
for (const level of ['log', 'info', 'warn', 'error']) {
  console[level] = (...parts) => said.push(parts.map(String).join(' '));
}

const send = (path, body) => fetch(path, { method: 'POST', body });

async function run() {
  const { pictures, dtype, shape } = await (await fetch('/task.json')).json();
  self.Module = { wasmBinary: await (await fetch('/runtime.wasm')).arrayBuffer() };
  const loaded = await loadLiteRt('/loader.js');
  const device = loaded.getWebGpuDevice();
  if (!device) throw new Error('this browser gives no GPU to web pages');
  const model = await loadAndCompile('/model.tflite', {
    accelerator: 'webgpu',
    gpuOptions: { precision: 'fp32' },
  });
  const details = model.getOutputDetails();
  for (let picture = 0; picture < pictures; picture++) {
    const bytes = await (await fetch(`/input/${picture}`)).arrayBuffer();
    const input = new Tensor(new TYPED_ARRAYS[dtype](bytes), shape);
    const outputs = await model.run([input]);
    for (let position = 0; position < outputs.length; position++) {
      const values = await outputs[position].data();
      const { name, dtype: type } = details[position];
      const query = new URLSearchParams({ picture, name, type, shape: [...details[position].shape] });
      await send(`/output?${query}`, values.slice().buffer);
      outputs[position].delete();
    }
    input.delete();
  }
  const { vendor, architecture, description } = device.adapterInfo ?? {};
  return {
    adapter: description || [vendor, architecture].filter(Boolean).join(' '),
    onGpu: model.options.accelerator === 'webgpu',
    all: model.isFullyAccelerated,
  };
}

run().then(
  (result) => send('/end', JSON.stringify({ ...result, said })),
  (error) => send('/end', JSON.stringify({ error: String((error && error.message) || error), said })),
);
