// The page: a photo or the camera in; masks, times and a result file out.
"use strict";
(() => {
  const page = JSON.parse(document.getElementById("values").textContent);
  const find = (id) => document.getElementById(id);
  const MOST_PIXELS = 16e6; // larger photos are first shrunk by the browser, which some phones need
  const WIDEST_VIEW = 1280;
  const REPEATS = 20;
  const RESULT_FORMAT = 1;
  const OUTSIDE = [224, 224, 192]; // colour of a value that is no class
  const DIFFERENT = [255, 0, 170];

  let photo = null; // {name, rgba, height, width, inputs: one for each model, ours: masks or null}
  let shown = 0; // number of a model, or "difference"
  let live = null; // the camera's stream
  const results = new Map(); // "number accelerator" -> result of the current photo
  const engines = new Map(); // "number accelerator" -> promise of a worker that has the model
  const hiddenClasses = new Set();

  // --- Parts of the page

  async function unzipped(base64) {
    const text = base64.trim();
    const bytes = Uint8Array.fromBase64
      ? Uint8Array.fromBase64(text)
      : Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function zipped(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
    const packed = new Uint8Array(await new Response(stream).arrayBuffer());
    let text = "";
    for (let start = 0; start < packed.length; start += 8192) {
      text += String.fromCharCode(...packed.subarray(start, start + 8192));
    }
    return btoa(text);
  }

  // A file that the page carries or, in the folder form, that lies beside it.
  async function asset(name) {
    const embedded = find("asset-" + name);
    if (embedded) return unzipped(embedded.textContent);
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${name} is missing beside the page (${answer.status})`);
    return new Uint8Array(await answer.arrayBuffer());
  }

  const asText = (bytes) => new TextDecoder().decode(bytes);

  function say(text, failed = false) {
    find("status").textContent = text;
    find("status").className = failed ? "failed" : "";
  }

  // --- Workers

  function hasRelaxedSimd() {
    // A function with one instruction of relaxed SIMD; the bytes are those of LiteRT's own check.
    return WebAssembly.validate(Uint8Array.of(
      0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 15, 1, 13, 0, 65, 1,
      253, 15, 65, 2, 253, 15, 253, 128, 2, 11));
  }

  function chooseBuild(accelerator) {
    if (find("build").value) return find("build").value;
    const relaxed = hasRelaxedSimd();
    const works = {
      threaded: relaxed && self.crossOriginIsolated,
      plain: relaxed,
      jspi: relaxed && "Suspending" in WebAssembly,
      compat: true,
    };
    const order = {
      cpu: ["threaded", "plain", "jspi", "compat"],
      gpu: ["jspi", "plain", "compat"], // 8-bit files need the first
    };
    const chosen = order[accelerator].find((build) => works[build] && page.builds.includes(build));
    if (!chosen) {
      throw new Error("this browser lacks what the page's WebAssembly needs; open it in a newer " +
        "one, or write the page without --nofallback");
    }
    return chosen;
  }

  let workerUrl = null;

  async function startWorker(number, accelerator) {
    const build = chooseBuild(accelerator);
    workerUrl ??= asset("runtime.js").then((runtime) =>
      URL.createObjectURL(new Blob([runtime, "\n", page.worker], { type: "text/javascript" })));
    const [url, loader, wasm, content] = await Promise.all([
      workerUrl, asset(build + ".js"), asset(build + ".wasm"), asset(`model${number}.tflite`),
    ]);
    const worker = new Worker(url);
    const engine = {
      build,
      worker,
      call(message, onProgress = () => {}) {
        return new Promise((resolve, reject) => {
          worker.onmessage = ({ data }) => {
            if ("progress" in data) onProgress(data.progress);
            else if ("failure" in data) reject(new Error(data.failure));
            else resolve(data.answer);
          };
          worker.onerror = (event) => reject(new Error(event.message || "the worker ended"));
          worker.postMessage(message);
        });
      },
    };
    const opened = await engine.call({
      call: "open", content, model: page.models[number], loader: asText(loader), wasm, accelerator,
    });
    return Object.assign(engine, opened);
  }

  function engineOf(number, accelerator) {
    const key = `${number} ${accelerator}`;
    if (!engines.has(key)) {
      const starting = startWorker(number, accelerator);
      starting.catch(() => engines.delete(key)); // tried again the next time
      engines.set(key, starting);
    }
    return engines.get(key);
  }

  // One job after the other: two at once would disturb each other's times.
  let lastJob = Promise.resolve();
  function enqueue(job) {
    const done = lastJob.then(job);
    lastJob = done.catch((error) => say(String(error.message || error), true));
    return lastJob;
  }

  // --- The photo

  function pixelsOf(source, height, width) {
    const shrink = Math.min(1, Math.sqrt(MOST_PIXELS / (height * width)));
    const canvas = document.createElement("canvas");
    canvas.height = Math.max(1, Math.round(height * shrink));
    canvas.width = Math.max(1, Math.round(width * shrink));
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(source, 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return { rgba: data, height: canvas.height, width: canvas.width };
  }

  async function decoded(blob) {
    try {
      return await createImageBitmap(blob, { colorSpaceConversion: "none" });
    } catch {
      return createImageBitmap(blob); // a browser without the option
    }
  }

  function setPhoto(name, pixels, ours = null) {
    results.clear();
    const inputs = page.models.map((model) =>
      placePhoto(pixels.rgba, pixels.height, pixels.width, model));
    photo = { name, ...pixels, inputs, ours };
    drawPhoto();
  }

  async function openFile(file) {
    say(`Reading ${file.name} ...`);
    let bitmap;
    try {
      bitmap = await decoded(file);
    } catch {
      throw new Error(`${file.name}: this browser cannot read it as a picture; choose a JPEG or PNG`);
    }
    const pixels = pixelsOf(bitmap, bitmap.height, bitmap.width);
    bitmap.close();
    setPhoto(file.name, pixels);
    await segmentAll();
  }

  async function openTest() {
    const { name, height, width, pixels, masks } = page.test;
    const rgb = await unzipped(pixels);
    const rgba = new Uint8ClampedArray(4 * height * width).fill(255);
    for (let pixel = 0; pixel < height * width; pixel++) {
      rgba.set(rgb.subarray(3 * pixel, 3 * pixel + 3), 4 * pixel);
    }
    const ours = await Promise.all(page.models.map((model) => unzipped(masks[model.name])));
    setPhoto(name, { rgba, height, width }, ours);
    await segmentAll();
  }

  // --- Running

  const accelerator = () => document.querySelector("[name=accelerator]:checked").value;

  function keep(number, where, engine, result) {
    const { build, threads, onGpu } = engine;
    results.set(`${number} ${where}`,
      { ...results.get(`${number} ${where}`), number, accelerator: where, build, threads, onGpu,
        ...result });
  }

  async function segment(number, where) {
    const engine = await engineOf(number, where);
    const answer = await engine.call({ call: "run", pixels: photo.inputs[number].pixels });
    keep(number, where, engine, { mask: answer.mask });
    return answer.milliseconds;
  }

  async function segmentAll() {
    const where = accelerator();
    const times = [];
    for (const [number, model] of page.models.entries()) {
      say(`Running ${model.name} ...`);
      const milliseconds = await segment(number, where);
      times.push(`${page.models.length > 1 ? model.name + " " : ""}${milliseconds.toFixed(0)} ms`);
    }
    show();
    say(`${photo.name}: ${times.join(", ")} on the ${where.toUpperCase()}, first run.`);
    find("measure").disabled = find("save").disabled = false;
  }

  async function measureAll() {
    const places = find("gpu").disabled ? ["cpu"] : ["cpu", "gpu"];
    const progress = find("progress");
    progress.hidden = false;
    find("measure").disabled = true;
    let failure = "";
    for (const [number, model] of page.models.entries()) {
      for (const where of places) {
        say(`Measuring ${model.name} on the ${where.toUpperCase()} ...`);
        progress.value = 0;
        try {
          const engine = await engineOf(number, where);
          const answer = await engine.call(
            { call: "measure", pixels: photo.inputs[number].pixels, repeats: REPEATS },
            (count) => { progress.value = count; });
          keep(number, where, engine, answer);
        } catch (error) {
          failure ||= ` ${model.name} on the ${where.toUpperCase()}: ${error.message}`;
          results.set(`${number} ${where}`, { number, accelerator: where, failure: error.message });
        }
        show();
      }
    }
    progress.hidden = true;
    find("measure").disabled = false;
    say("Measured." + failure, Boolean(failure));
  }

  // The smallest value that at least a share of the runs do not exceed; the median of an even
  // number of runs is the mean of the two in the middle.
  function quantiles(runs) {
    const sorted = [...runs].sort((a, b) => a - b);
    const middle = (sorted.length - 1) / 2;
    return {
      median: (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2,
      p90: sorted[Math.ceil(0.9 * sorted.length) - 1],
    };
  }

  // --- Camera

  async function startCamera() {
    if (!navigator.mediaDevices) {
      throw new Error("no live camera for a page opened like this (it needs https or a file); " +
        "use Take a photo");
    }
    try {
      live = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      throw new Error(`no camera: ${error.message}; use Take a photo`);
    }
    find("camera").setAttribute("aria-pressed", "true");
    find("camera").textContent = "Stop the camera";
    const video = document.createElement("video");
    video.srcObject = live;
    video.muted = video.playsInline = true;
    await video.play();
    let before = performance.now();
    while (live) {
      setPhoto("camera", pixelsOf(video, video.videoHeight, video.videoWidth));
      const where = accelerator();
      for (const number of page.models.keys()) await segment(number, where);
      show();
      const now = performance.now();
      say(`${(1000 / (now - before)).toFixed(1)} pictures a second on the ${where.toUpperCase()}.`);
      before = now;
      await new Promise(requestAnimationFrame);
    }
    find("measure").disabled = find("save").disabled = false;
  }

  function stopCamera() {
    live?.getTracks().forEach((track) => track.stop());
    live = null;
    find("camera").setAttribute("aria-pressed", "false");
    find("camera").textContent = "Live camera";
  }

  // --- What is shown

  function drawPhoto() {
    const { rgba, height, width } = photo;
    const whole = document.createElement("canvas");
    whole.height = height;
    whole.width = width;
    whole.getContext("2d").putImageData(new ImageData(rgba, width, height), 0, 0);
    const canvas = find("photo");
    const scale = Math.min(1, WIDEST_VIEW / Math.max(height, width));
    canvas.height = Math.max(1, Math.round(height * scale));
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.getContext("2d").drawImage(whole, 0, 0, canvas.width, canvas.height);
    canvas.setAttribute("aria-label", `The photo ${photo.name}`);
    find("stage").hidden = false;
  }

  // Uint8Array of the part of a mask that the photo covers.
  function covered(mask, number) {
    const { placed } = photo.inputs[number];
    const { width } = page.models[number];
    const part = new Uint8Array(placed.height * placed.width);
    for (let row = 0; row < placed.height; row++) {
      part.set(mask.subarray(row * width, row * width + placed.width), row * placed.width);
    }
    return part;
  }

  // The covered part of a mask at the size of another model's.
  function coveredLike(mask, number, size) {
    const { placed } = photo.inputs[number];
    const part = covered(mask, number);
    if (placed.height === size.height && placed.width === size.width) return part;
    return Uint8Array.from({ length: size.height * size.width }, (_, pixel) => {
      const y = Math.floor((Math.floor(pixel / size.width) + 0.5) * placed.height / size.height);
      const x = Math.floor(((pixel % size.width) + 0.5) * placed.width / size.width);
      return part[y * placed.width + x];
    });
  }

  function maskOf(number) {
    const first = results.get(`${number} ${accelerator()}`);
    const found = first?.mask ? first : [...results.values()].find((r) => r.number === number && r.mask);
    return found?.mask ?? null;
  }

  function shareEqual(one, other) {
    let equal = 0;
    for (let pixel = 0; pixel < one.length; pixel++) equal += one[pixel] === other[pixel];
    return equal / one.length;
  }

  const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;

  function paint(height, width, colorOf) {
    const image = new ImageData(width, height);
    for (let pixel = 0; pixel < height * width; pixel++) {
      const color = colorOf(pixel);
      if (color) image.data.set([...color, 255], 4 * pixel);
    }
    const canvas = find("mask");
    canvas.height = height;
    canvas.width = width;
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  function showMask(number) {
    const { names, colors } = page.models[number];
    const { placed } = photo.inputs[number];
    const mask = covered(maskOf(number), number);
    const counts = new Map();
    for (const label of mask) counts.set(label, (counts.get(label) ?? 0) + 1);
    const found = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) =>
      ({ label, name: names[label] ?? `value ${label}`, share: count / mask.length }));
    paint(placed.height, placed.width, (pixel) =>
      hiddenClasses.has(mask[pixel]) ? null : colors[mask[pixel]] ?? OUTSIDE);
    find("mask").setAttribute("aria-label", `Mask of ${page.models[number].name}: ` +
      found.map(({ name, share }) => `${name} ${percent(share)}`).join(", "));
    showLegend(found, colors);
  }

  function showLegend(found, colors) {
    find("classes").hidden = !found.length;
    find("legend").replaceChildren(...found.map(({ label, name, share }) => {
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !hiddenClasses.has(label);
      box.dataset.label = label;
      box.onchange = () => {
        box.checked ? hiddenClasses.delete(label) : hiddenClasses.add(label);
        show();
        document.querySelector(`#legend [data-label="${label}"]`)?.focus();
      };
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = `rgb(${(colors[label] ?? OUTSIDE).join(",")})`;
      const part = document.createElement("span");
      part.className = "share";
      part.textContent = percent(share);
      const words = document.createElement("span");
      words.append(name + " ", part);
      const line = document.createElement("label");
      line.append(box, swatch, words);
      const item = document.createElement("li");
      item.append(line);
      return item;
    }));
  }

  function showDifference() {
    const size = photo.inputs[0].placed;
    const masks = page.models.map((_, number) => coveredLike(maskOf(number), number, size));
    const differs = (pixel) => masks.some((mask) => mask[pixel] !== masks[0][pixel]);
    paint(size.height, size.width, (pixel) => (differs(pixel) ? DIFFERENT : null));
    const share = masks[0].reduce((count, _, pixel) => count + differs(pixel), 0) / masks[0].length;
    find("mask").setAttribute("aria-label", `Where the models differ: ${percent(share)}`);
    showLegend([], []);
  }

  function showAgreement() {
    const size = photo.inputs[0].placed;
    const first = coveredLike(maskOf(0), 0, size);
    find("agreement").hidden = page.models.length === 1;
    find("agreement").textContent = page.models.slice(1).map((model, index) =>
      `${model.name}: ${percent(shareEqual(first, coveredLike(maskOf(index + 1), index + 1, size)), 2)} ` +
      `of the pixels as ${page.models[0].name}`).join("; ");
  }

  function cell(row, text, tag = "td") {
    const element = document.createElement(tag);
    element.textContent = text;
    row.append(element);
    return element;
  }

  function placeName({ accelerator: where, build, threads, onGpu }) {
    if (where === "cpu") return `CPU, ${threads} thread${threads > 1 ? "s" : ""}, ${build}`;
    const words = { full: "GPU", part: "GPU, in part CPU", none: "GPU refused it: CPU" };
    return `${words[onGpu]}, ${build}`;
  }

  function showTimes() {
    const rows = [...results.values()].filter((result) => result.runs || result.failure);
    const reference = [...results.values()].find((result) => result.mask);
    find("times").hidden = !rows.length;
    find("compared").replaceChildren("pixels as", document.createElement("br"),
      photo.ours ? "computer %" : "first row %");
    find("times").tBodies[0].replaceChildren(...rows.map((result) => {
      const row = document.createElement("tr");
      const model = page.models.length > 1 ? page.models[result.number].name + ", " : "";
      if (result.failure) {
        cell(row, `${model}${result.accelerator.toUpperCase()}`, "th").scope = "row";
        const reason = cell(row, result.failure);
        reason.colSpan = 3;
        reason.className = "failed";
        return row;
      }
      const fewer = result.runs.length < REPEATS ? `, ${result.runs.length} runs` : "";
      cell(row, model + placeName(result) + fewer, "th").scope = "row";
      const { median, p90 } = quantiles(result.runs);
      cell(row, median.toFixed(1));
      cell(row, p90.toFixed(1));
      const size = photo.inputs[reference.number].placed;
      const share = photo.ours
        ? shareEqual(result.mask, photo.ours[result.number])
        : shareEqual(coveredLike(reference.mask, reference.number, size),
          coveredLike(result.mask, result.number, size));
      cell(row, (100 * share).toFixed(2));
      return row;
    }));
  }

  function show() {
    if (!photo || page.models.some((_, number) => !maskOf(number))) return;
    shown === "difference" ? showDifference() : showMask(shown);
    showAgreement();
    showTimes();
    find("look").hidden = false;
    const where = [...results.values()].find((result) => result.build);
    find("how").textContent = where ? `On the ${where.accelerator.toUpperCase()}: build ${where.build}.` : "";
  }

  // --- The result file

  async function resultFile() {
    const models = [];
    for (const [number, { pixels }] of photo.inputs.entries()) {
      const { file, sha256, height, width, input } = page.models[number];
      const runs = [];
      for (const result of results.values()) {
        if (result.number !== number || !result.mask) continue;
        const latency = result.runs && {
          ...quantiles(result.runs), runs: result.runs, warm_up: result.warmUp,
        };
        runs.push({
          accelerator: result.accelerator, on_gpu: result.onGpu, build: result.build,
          threads: result.threads, mask: await zipped(result.mask), latency_ms: latency ?? null,
        });
      }
      const { mean, std } = input;
      models.push({ file, sha256, height, width, mean, std, pixels: await zipped(pixels), runs });
    }
    return {
      kind: "phone_result", format: RESULT_FORMAT, runtime: `litertjs ${page.version}`,
      made: new Date().toISOString(), photo: photo.name,
      device: {
        name: find("device").value.trim(), browser: navigator.userAgent,
        cores: navigator.hardwareConcurrency ?? null,
      },
      models,
    };
  }

  async function save() {
    const text = JSON.stringify(await resultFile());
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = "result.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    say("Saved result.json among this device's downloads.");
  }

  // --- Controls

  for (const id of ["choose", "take"]) {
    find(id).onchange = ({ target }) => {
      const [file] = target.files;
      target.value = ""; // the same photo can be chosen again
      if (!file) return;
      stopCamera();
      enqueue(() => openFile(file));
    };
  }
  if (page.test) find("use-test").onclick = () => { stopCamera(); enqueue(openTest); };
  find("camera").onclick = () => (live ? stopCamera() : enqueue(() => startCamera().finally(stopCamera)));
  find("measure").onclick = () => { stopCamera(); enqueue(measureAll); };
  find("save").onclick = () => { stopCamera(); enqueue(save); };
  find("opacity").oninput = ({ target }) => {
    find("mask").style.opacity = target.value / 100;
    find("opacity-value").textContent = `${target.value} %`;
  };
  find("mask").style.opacity = find("opacity").value / 100;
  find("build").onchange = () => {
    stopCamera();
    enqueue(async () => {
      for (const starting of engines.values()) (await starting.catch(() => null))?.worker.terminate();
      engines.clear();
      results.clear();
      if (photo) await segmentAll();
    });
  };
  for (const radio of document.querySelectorAll("[name=accelerator]")) {
    radio.onchange = () => { if (photo && !live) enqueue(segmentAll); };
  }
  async function findGpu() {
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    find("gpu").disabled = !adapter;
    find("no-gpu").hidden = Boolean(adapter);
  }
  enqueue(findGpu); // before any job that needs the answer

  const views = [...page.models.map((model, number) => [number, model.name]), ["difference", "where they differ"]];
  for (const [value, name] of page.models.length > 1 ? views : []) {
    const radio = document.createElement("input");
    radio.type = "radio";
    radio.name = "view";
    radio.checked = value === shown;
    radio.onchange = () => { shown = value; show(); };
    const line = document.createElement("label");
    line.append(radio, " " + name);
    find("view").append(line);
  }
  const brands = navigator.userAgentData;
  brands?.getHighEntropyValues?.(["model"]).then(({ model }) => { find("device").value ||= model; });
})();
