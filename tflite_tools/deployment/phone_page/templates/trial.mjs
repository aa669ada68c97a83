// Runs a model once in Node.js with the page's own code, when the page is made.
//
// node trial.mjs FOLDER: reads runtime.js, engine.js, loader.js, runtime.wasm, model.tflite,
// model.json and pixels.bin there; writes mask.bin.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import vm from "node:vm";

const folder = process.argv[2];
const text = (name) => readFileSync(path.join(folder, name), "utf8");
const bytes = (name) => new Uint8Array(readFileSync(path.join(folder, name)));

console.warn = console.info = console.log = () => {}; // what the runtime says about itself
globalThis.self = globalThis;
globalThis.require = createRequire(import.meta.url);
globalThis.__dirname = folder; // the loader takes Node.js for its home
globalThis.importScripts = () => vm.runInThisContext(text("loader.js"));
try {
  vm.runInThisContext(text("runtime.js"));
  const openEngine = vm.runInThisContext(`${text("engine.js")}\nopenEngine`);
  const engine = await openEngine({
    content: bytes("model.tflite"),
    model: JSON.parse(text("model.json")),
    loaderUrl: "loader",
    wasm: bytes("runtime.wasm"),
    accelerator: "cpu",
  });
  const { mask } = await engine.run(bytes("pixels.bin"));
  writeFileSync(path.join(folder, "mask.bin"), mask);
  process.exit(0);
} catch (error) {
  process.stderr.write(`${(error && error.message) || error}\n`);
  process.exit(1);
}
