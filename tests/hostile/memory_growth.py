"""Measures whether memory grows with the number of photos, and with the number of steps.

    python -m tests.hostile.memory_growth

Evaluates a small file on 1,000 and on 10,000 photos of 48 x 32 pixels, and trains a small network
for 2,000 steps; prints the resident memory of all processes: its peak, and its median in each tenth
of the time.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from PIL import Image

from deeplab_tf.data.readers.synthetic import LABEL_SET, draw_scene
from tests.hostile.commands import resident_mb_of_tree
from tests.paths import ROOT
from tests.small_network import SIZE, small_int8_file, write_small_run

DIFFERENT = 20
"""Photos; the rest are links to them."""


def write_photos(folder: pathlib.Path, count: int) -> pathlib.Path:
    """Writes an own data set with a list `val` of as many photos."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        image, label = folder / "images" / f"{number}.png", folder / "labels" / f"{number}.png"
        if number < DIFFERENT:
            pixels, classes = draw_scene(number)
            Image.fromarray(pixels).resize(SIZE[::-1]).save(image)
            Image.fromarray(classes).resize(SIZE[::-1], Image.Resampling.NEAREST).save(label)
            continue
        for path in (image, label):
            path.hardlink_to(path.with_name(f"{number % DIFFERENT}.png"))
    (folder / "val.txt").write_text("".join(f"{number}\n" for number in range(count)))
    (folder / "classes.txt").write_text("\n".join(LABEL_SET.names) + "\n")
    return folder


def sampled(module: str, *flags: str, every_s: float = 0.2) -> list[float]:
    """Runs a command; returns the memory of all its processes in MB, sample by sample."""
    samples = []
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *flags], cwd=ROOT, stdout=log, stderr=log
        )
        while process.poll() is None:
            samples.append(resident_mb_of_tree(process.pid))
            time.sleep(every_s)
        log.seek(0)
        assert process.returncode == 0, log.read()[-3000:]
    return samples


def tenths(samples: list[float]) -> str:
    """Formats the median of each tenth of the time."""
    size = max(len(samples) // 10, 1)
    parts = [samples[start : start + size] for start in range(0, size * 10, size)]
    return " ".join(f"{statistics.median(part):.0f}" for part in parts if part)


def report(name: str, samples: list[float], seconds: float) -> None:
    """Prints one line."""
    sys.stdout.write(
        f"{name}: peak {max(samples):.0f} MB, by tenths of {seconds:.0f} s: {tenths(samples)}\n"
    )
    sys.stdout.flush()


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", default="1000,10000")
    parser.add_argument("--steps", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = pathlib.Path(name)
        model = folder / "small.tflite"
        model.write_bytes(small_int8_file())
        for count in map(int, filter(None, options.photos.split(","))):
            photos = write_photos(folder / f"photos-{count}", count)
            started = time.monotonic()
            samples = sampled(
                "tflite_tools.evaluate",
                *(f"--model={model}", "--dataset=folder", f"--data_dir={photos}", "--processes=2"),
                *("--mean=128", "--std=128", "--latency_repeats=0", "--grid_images=0"),
                f"--output_dir={folder / f'evaluation-{count}'}",
            )
            metrics = json.loads((folder / f"evaluation-{count}" / "metrics.json").read_text())
            scored = metrics["models"][0].get("images", count)
            report(f"evaluate, {scored} photos", samples, time.monotonic() - started)
        if options.steps:
            started = time.monotonic()
            samples = sampled(
                "deeplab_tf.train",
                *("--dataset=synthetic", "--batch_size=2", "--quantize_calibration_images=4"),
                *("--holdout_images=2", "--validation_split=holdout"),
                *(f"--validation_interval={options.steps // 4}", "--checkpoint_interval=100"),
                *(f"--train_steps={options.steps}", f"--quantize_delay_step={options.steps // 2}"),
                *(
                    f"--init_from={write_small_run(folder / 'start')}",
                    f"--run_dir={folder / 'run'}",
                ),
                every_s=0.5,
            )
            report(f"train, {options.steps} steps", samples, time.monotonic() - started)


if __name__ == "__main__":
    main()
