// Runs one model with LiteRT's web runtime: pixels in, one class per pixel out. Everything about
// the file's input and output is in `model`, written by Python from the contract of the file.
"use strict";

const TYPED_ARRAYS = { uint8: Uint8Array, int8: Int8Array, float32: Float32Array };

// The input tensor: a table of 256 values for each channel, or the pixels as they are.
function fedValues(pixels, model) {
  const { table, dtype, channels, channelsFirst } = model.input;
  if (!table && !channelsFirst) return pixels;
  const values = new TYPED_ARRAYS[dtype](pixels.length);
  const count = pixels.length / channels;
  for (let index = 0; index < pixels.length; index++) {
    const channel = index % channels;
    const place = channelsFirst ? channel * count + (index - channel) / channels : index;
    values[place] = table ? table[channel][pixels[index]] : pixels[index];
  }
  return values;
}

// Scores [channels, height, width] as [height, width, channels].
function channelsLast(scores, channels) {
  const count = scores.length / channels;
  return scores.map((_, index) => scores[(index % channels) * count + Math.floor(index / channels)]);
}

// Two neighbours and the weight of the second, for each position of a bilinear resize.
function neighbours(positions, size) {
  const inside = (index) => Math.min(size - 1, Math.max(0, index));
  return positions.map((position) => {
    const low = Math.floor(position);
    return { low: inside(low), high: inside(low + 1), weight: Math.fround(position - low) };
  });
}

// Calls `each(pixel, scores, start)` with the scores of each pixel of the canvas, row by row.
function eachPixel(scores, { height, width, output }, each) {
  const { channels, rows, columns } = output;
  if (!rows) {
    for (let pixel = 0; pixel < height * width; pixel++) each(pixel, scores, pixel * channels);
    return;
  }
  const sourceWidth = output.width;
  const vertical = neighbours(rows, output.height);
  const horizontal = neighbours(columns, sourceWidth);
  const line = new Float32Array(sourceWidth * channels);
  const values = new Float32Array(channels);
  vertical.forEach((row, y) => {
    const above = row.low * line.length;
    const below = row.high * line.length;
    for (let index = 0; index < line.length; index++) {
      line[index] = (1 - row.weight) * scores[above + index] + row.weight * scores[below + index];
    }
    horizontal.forEach((column, x) => {
      for (let channel = 0; channel < channels; channel++) {
        values[channel] =
          (1 - column.weight) * line[column.low * channels + channel] +
          column.weight * line[column.high * channels + channel];
      }
      each(y * width + x, values, 0);
    });
  });
}

// Uint8Array [height * width]: the class of each pixel of the canvas. Of equal scores the first.
function classMap(scores, model) {
  const { height, width, output } = model;
  const mask = new Uint8Array(height * width);
  if (output.isClassMap) {
    for (let pixel = 0; pixel < mask.length; pixel++) {
      const y = Math.floor(pixel / width);
      const x = pixel % width;
      const value = Number(scores[output.rows[y] * output.width + output.columns[x]]); // or BigInt
      mask[pixel] = value < 0 || value > 255 ? 255 : value;
    }
  } else if (output.threshold !== null) {
    eachPixel(scores, model, (pixel, values, start) => {
      mask[pixel] = values[start] > output.threshold ? 1 : 0;
    });
  } else {
    eachPixel(scores, model, (pixel, values, start) => {
      let best = 0;
      for (let label = 1; label < output.channels; label++) {
        if (values[start + label] > values[start + best]) best = label;
      }
      mask[pixel] = best;
    });
  }
  return mask;
}

// Loads the runtime and a model. `accelerator` is "cpu" or "gpu"; one engine in each worker.
async function openEngine({ content, model, loaderUrl, wasm, accelerator }) {
  const runtime = self.liteRtRuntime;
  // Read by the loader; its threads start from the same script.
  self.Module = { wasmBinary: wasm, mainScriptUrlOrBlob: loaderUrl };
  const loaded = await runtime.loadLiteRt(loaderUrl + "#loader.js"); // its name must end in .js
  if (accelerator === "gpu" && !loaded.getWebGpuDevice()) {
    throw new Error("this browser gives no GPU to web pages");
  }
  const compiled = await runtime.loadAndCompile(content, {
    accelerator: accelerator === "gpu" ? "webgpu" : "wasm",
  });
  const { height, width, input: { channels, channelsFirst } } = model;
  const shape = channelsFirst ? [1, channels, height, width] : [1, height, width, channels];
  return {
    threads: accelerator === "cpu" ? loaded.liteRtWasm.getThreadCount() : null,
    // "full", "part" (the rest on the CPU) or "none"
    onGpu:
      accelerator === "cpu" || compiled.options.accelerator !== "webgpu"
        ? "none"
        : compiled.isFullyAccelerated ? "full" : "part",
    // The class map, and the time from the filled input to the scores in memory.
    async run(pixels) {
      const input = new runtime.Tensor(fedValues(pixels, model), shape);
      const started = performance.now();
      const outputs = await compiled.run([input]);
      let scores = await outputs[model.output.position].data();
      const milliseconds = performance.now() - started;
      input.delete();
      outputs.forEach((tensor) => tensor.delete());
      if (model.output.channelsFirst) scores = channelsLast(scores, model.output.channels);
      return { mask: classMap(scores, model), milliseconds };
    },
  };
}
