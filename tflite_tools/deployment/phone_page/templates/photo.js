// Places a photo on the input of a model exactly as the project's Python does: scaled to fit,
// top left, aspect ratio kept, the rest gray; resized with Pillow's antialiased bilinear filter.
"use strict";

const PAD_PIXEL = 128;
const PRECISION_BITS = 22; // of Pillow's fixed-point weights for 8-bit pixels

// Python's round(): halves go to the even neighbour.
function roundHalfEven(value) {
  const floor = Math.floor(value);
  if (value - floor !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

// Size of a photo on the canvas of a model.
function placedSize(height, width, canvas) {
  const scale = Math.min(canvas.height / height, canvas.width / width);
  return {
    height: Math.min(canvas.height, Math.max(1, roundHalfEven(height * scale))),
    width: Math.min(canvas.width, Math.max(1, roundHalfEven(width * scale))),
  };
}

// Weights of each output pixel along one axis: [{first, weights}], integers of PRECISION_BITS.
function filterWeights(source, target) {
  const scale = source / target;
  const support = Math.max(scale, 1);
  return Array.from({ length: target }, (_, index) => {
    const center = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const last = Math.min(source, Math.trunc(center + support + 0.5));
    const weights = [];
    for (let pixel = first; pixel < last; pixel++) {
      weights.push(Math.max(0, 1 - Math.abs((pixel - center + 0.5) / support)));
    }
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return {
      first,
      weights: Int32Array.from(weights, (w) => Math.trunc((w / sum) * (1 << PRECISION_BITS) + 0.5)),
    };
  });
}

// Resizes along one axis. `stride` is the distance of neighbours on this axis, `lines` the starts
// of all lines in the source and in the target.
function resizeAxis(source, target, { weights, sourceStride, targetStride, lines }) {
  const half = 1 << (PRECISION_BITS - 1);
  for (const [sourceStart, targetStart] of lines) {
    for (let index = 0; index < weights.length; index++) {
      const { first, weights: factors } = weights[index];
      let sum = half;
      let position = sourceStart + first * sourceStride;
      for (let tap = 0; tap < factors.length; tap++, position += sourceStride) {
        sum += source[position] * factors[tap];
      }
      target[targetStart + index * targetStride] = Math.min(255, sum >> PRECISION_BITS);
    }
  }
}

function* linesOf(count, sourceStep, targetStep, sourceChannels) {
  for (let line = 0; line < count; line++) {
    for (let channel = 0; channel < 3; channel++) {
      yield [line * sourceStep * sourceChannels + channel, line * targetStep * 3 + channel];
    }
  }
}

// RGBA [height * width * 4] -> RGB [target.height * target.width * 3].
function resizePhoto(rgba, height, width, target) {
  const wide = new Uint8Array(height * target.width * 3);
  if (width === target.width) {
    for (let pixel = 0; pixel < height * width; pixel++) {
      for (let channel = 0; channel < 3; channel++) {
        wide[3 * pixel + channel] = rgba[4 * pixel + channel];
      }
    }
  } else {
    resizeAxis(rgba, wide, {
      weights: filterWeights(width, target.width),
      sourceStride: 4,
      targetStride: 3,
      lines: linesOf(height, width, target.width, 4),
    });
  }
  if (height === target.height) return wide;
  const placed = new Uint8Array(target.height * target.width * 3);
  resizeAxis(wide, placed, {
    weights: filterWeights(height, target.height),
    sourceStride: 3 * target.width,
    targetStride: 3 * target.width,
    lines: linesOf(target.width, 1, 1, 3),
  });
  return placed;
}

// The pixels that a model is fed, RGB [canvas.height * canvas.width * 3], and the photo's size there.
function placePhoto(rgba, height, width, canvas) {
  const placed = placedSize(height, width, canvas);
  const resized = resizePhoto(rgba, height, width, placed);
  const pixels = new Uint8Array(canvas.height * canvas.width * 3).fill(PAD_PIXEL);
  for (let row = 0; row < placed.height; row++) {
    const line = resized.subarray(row * placed.width * 3, (row + 1) * placed.width * 3);
    pixels.set(line, row * canvas.width * 3);
  }
  return { pixels, placed };
}
