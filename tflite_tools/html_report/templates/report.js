// Clicks through the photos: one sequence of entries a file, ordered by class, list and rank.
"use strict";
(() => {
  const album = JSON.parse(document.getElementById("album").textContent);
  const kinds = Object.keys(album.kinds);
  const find = (id) => document.getElementById(id);
  const fileChoice = find("file-choice");
  const classChoice = find("class-choice");
  const percent = (value) => (value === null ? "not there" : (100 * value).toFixed(1) + " %");
  let sequence = [];
  let position = 0;

  function entriesOf(file) {
    return album.entries
      .map(([file, label, kind, photo, iou, reference]) => ({ file, label, kind, photo, iou, reference }))
      .filter((entry) => entry.file === file)
      .map((entry, rank) => ({ ...entry, rank }))
      .sort((a, b) =>
        a.label - b.label || kinds.indexOf(a.kind) - kinds.indexOf(b.kind) || a.rank - b.rank);
  }

  function first(label, kind) {
    return sequence.findIndex((entry) => entry.label === label && (!kind || entry.kind === kind));
  }

  function tile(id, sources, caption) {
    const figure = find(id);
    figure.hidden = sources.some((source) => !source);
    if (figure.hidden) return;
    figure.querySelectorAll("img").forEach((image, number) => { image.src = sources[number]; });
    figure.querySelector("figcaption").textContent = caption;
  }

  // The classes of one mask, those with most pixels first.
  function legend(id, labels) {
    find(id).querySelector(".legend").replaceChildren(...(labels || []).map((label) => {
      const entry = document.createElement("span");
      const swatch = document.createElement("span");
      swatch.className = "swatch";
      swatch.style.background = album.colors[label];
      entry.append(swatch, album.classes[label]);
      return entry;
    }));
  }

  function show() {
    const entry = sequence[position];
    const photo = album.photos[entry.photo];
    const name = album.classes[entry.label];
    const same = sequence.filter((other) => other.label === entry.label && other.kind === entry.kind);
    const hasReference = album.reference !== null && album.reference !== entry.file;
    const words = { worst: "worst", best: "best", lost: "largest loss" }[entry.kind];
    find("position").textContent =
      `${name}: ${words}, ${same.indexOf(entry) + 1} of ${same.length} (${photo.name})`;
    classChoice.value = entry.label;
    for (const kind of kinds) {
      const button = find("kind-" + kind);
      button.setAttribute("aria-pressed", kind === entry.kind);
      button.disabled = first(entry.label, kind) < 0;
    }
    tile("tile-photo", [photo.photo], "photo");
    tile("tile-truth", [photo.truth], "truth (cream: ignored)");
    tile("tile-reference", [hasReference && photo.masks[album.reference]],
      `${album.files[album.reference]}: ${name} ${percent(entry.reference)}`);
    tile("tile-mask", [photo.masks[entry.file]],
      `${album.files[entry.file]}: ${name} ${percent(entry.iou)}`);
    tile("tile-slider", [hasReference && photo.masks[album.reference], photo.masks[entry.file]],
      `left of the border ${album.files[album.reference]}, right of it ${album.files[entry.file]}`);
    legend("tile-truth", photo.present.truth);
    legend("tile-mask", photo.present[entry.file]);
    legend("tile-reference", hasReference && photo.present[album.reference]);
    tile("tile-difference", [photo.photo, photo.differences[entry.file]],
      hasReference ? `where ${album.files[entry.file]} and ${album.files[album.reference]} differ` : "where it is wrong");
  }

  function go(target) {
    if (target < 0 || !sequence.length) return;
    position = target % sequence.length;
    show();
  }

  function fill(label) {
    sequence = entriesOf(Number(fileChoice.value));
    const labels = [...new Set(sequence.map((entry) => entry.label))];
    classChoice.replaceChildren(...labels.map((value) => new Option(album.classes[value], value)));
    go(Math.max(0, first(label)));
  }

  const files = [...new Set(album.entries.map((entry) => entry[0]))].sort((a, b) => a - b);
  if (!files.length) {
    find("viewer").hidden = true;
    return;
  }
  fileChoice.replaceChildren(...files.map((file) => new Option(album.files[file], file)));
  fileChoice.onchange = () => fill(Number(classChoice.value));
  classChoice.onchange = () => go(first(Number(classChoice.value)));
  for (const kind of kinds) {
    find("kind-" + kind).onclick = () => go(first(Number(classChoice.value), kind));
  }
  find("next").onclick = () => go(position + 1);
  find("previous").onclick = () => go(position + sequence.length - 1);
  find("slider").oninput = (event) => {
    find("tile-slider").style.setProperty("--border", event.target.value + "%");
  };
  find("viewer").onkeydown = (event) => {
    if (["SELECT", "INPUT"].includes(event.target.tagName)) return;
    if (event.key === "ArrowRight") find("next").click();
    if (event.key === "ArrowLeft") find("previous").click();
  };
  fill(album.entries[0][1]);
})();
