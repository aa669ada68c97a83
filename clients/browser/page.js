// What both pages share: the picture in, the mask out as window.finished.

export async function pictureOf(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

// Uint8Array [height * width * 3], RGB.
export async function pixelsOf(address) {
  const picture = await pictureOf(address);
  const { naturalHeight: height, naturalWidth: width } = picture;
  const context = new OffscreenCanvas(width, height).getContext('2d');
  context.drawImage(picture, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(height * width * 3);
  for (let pixel = 0; pixel < height * width; pixel++) {
    pixels.set(rgba.subarray(4 * pixel, 4 * pixel + 3), 3 * pixel);
  }
  return { pixels, height, width };
}

// Runs a function that returns the mask as a Uint8Array [height * width].
export function publish(run) {
  window.finished = run().then((mask) => Array.from(mask));
}
