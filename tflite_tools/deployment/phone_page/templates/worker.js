// The worker of one model on one accelerator: answers {call: "open" | "run" | "measure"}.
"use strict";

const WARM_UP = 3;
const WARM_UP_MS = 10_000; // a device that is so slow does fewer runs
const MEASURE_MS = 30_000;
const FEWEST_RUNS = 3;
let engine = null;

async function openHere({ loader, ...rest }) {
  const loaderUrl = URL.createObjectURL(new Blob([loader], { type: "text/javascript" }));
  engine = await openEngine({ ...rest, loaderUrl });
  return { threads: engine.threads, onGpu: engine.onGpu };
}

// Times of `repeats` runs after the warm-up, fewer on a slow device, and the mask.
async function measure({ pixels, repeats }) {
  const started = performance.now();
  const passed = () => performance.now() - started;
  let warmUp = 0;
  while (warmUp < WARM_UP && (!warmUp || passed() < WARM_UP_MS)) {
    await engine.run(pixels);
    warmUp += 1;
    self.postMessage({ progress: 0 });
  }
  const runs = [];
  let mask = null;
  while (runs.length < repeats && (runs.length < FEWEST_RUNS || passed() < MEASURE_MS)) {
    const result = await engine.run(pixels);
    mask = result.mask;
    runs.push(result.milliseconds);
    self.postMessage({ progress: runs.length });
  }
  return { mask, runs, warmUp };
}

const CALLS = { open: openHere, run: ({ pixels }) => engine.run(pixels), measure };

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ answer: await CALLS[data.call](data) });
  } catch (error) {
    self.postMessage({ failure: String((error && error.message) || error) });
  }
};
