"""Writes an input and its output as raw bytes, for a self-test on the device; or checks one.

python -m tflite_tools.golden --model=int8.tflite --photo=street.jpg --output_dir=golden
python -m tflite_tools.golden --output_dir=golden --check=output_of_the_phone.bin
python -m tflite_tools.golden --model=int8.tflite --check=result.json   # of tflite_tools.phone_page
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from tflite_tools.deployment.golden import GoldenOptions, compare, write_golden
from tflite_tools.deployment.phone_result import (
    compare_with_file,
    compare_with_pair,
    is_phone_result,
    read_phone_result,
)

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "The .tflite file.")
    flags.DEFINE_string("photo", "", "Image to feed.")
    flags.DEFINE_string("output_dir", "golden", "Folder of input.bin, output.bin, golden.json.")
    flags.DEFINE_string("check", "", "Raw output of a device, or result.json of a phone page.")
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> int:
    """Writes the test vectors, or compares a device's output with them.

    Returns:
        1 if a device's output differs too much, else 0.
    """
    output_dir = pathlib.Path(FLAGS.output_dir)
    if FLAGS.check:
        model = pathlib.Path(FLAGS.model) if FLAGS.model else None
        if is_phone_result(pathlib.Path(FLAGS.check)):
            return _check_phone(pathlib.Path(FLAGS.check), output_dir, model=model)
        result = compare(output_dir, pathlib.Path(FLAGS.check), model=model)
        sys.stdout.write(
            f"{'passed' if result.passed else 'FAILED'}: {result.agreement:.4%} of the pixels have "
            f"the same class, at least {result.required:.2%} is required; largest difference of a "
            f"raw value: {result.largest_difference:g}\n"
        )
        return 0 if result.passed else 1
    if not FLAGS.model or not FLAGS.photo:
        raise ValueError(
            "expected a file and an image; give --model=FILE and --photo=IMAGE, or --check=OUTPUT"
        )
    options = GoldenOptions(
        pathlib.Path(FLAGS.model),
        pathlib.Path(FLAGS.photo),
        output_dir=output_dir,
        overwrite=FLAGS.overwrite,
    )
    description = write_golden(options)
    if (orientation := description["photo_exif_orientation"]) != 1:
        sys.stdout.write(
            f"note: {FLAGS.photo} has EXIF orientation {orientation}, which is not applied: "
            "input.bin holds the pixels as stored, and a device that turns the photo first gets "
            "another mask; feed input.bin, or give an upright photo\n"
        )
    tolerance = description["tolerance"]
    for name in ("input", "output"):
        tensor = description[name]
        sys.stdout.write(f"{output_dir / tensor['file']}: {tensor['dtype']} {tensor['shape']}\n")
    measured = tolerance["measured_between_kernel_sets"]
    between = "XNNPACK refuses the file" if measured is None else f"{measured:.4%}"
    sys.stdout.write(
        f"a device passes with at least {tolerance['min_class_agreement']:.2%} equal pixels; two "
        f"kernel sets here: {between}\n"
    )
    return 0


def _check_phone(
    path: pathlib.Path, golden_dir: pathlib.Path, *, model: pathlib.Path | None
) -> int:
    result = read_phone_result(path)
    if model is None:
        compared = compare_with_pair(result, golden_dir)
    else:
        compared = compare_with_file(result, model)
    for entry in compared:
        found, latency = entry.comparison, entry.run.latency_ms
        time = "time not measured"
        if latency:
            time = f"median {latency[0]:.1f} ms, p90 {latency[1]:.1f} ms of {latency[2]} runs"
        sys.stdout.write(
            f"{'passed' if found.passed else 'FAILED'}: {entry.file} on {result.device} "
            f"({entry.run.accelerator}): {found.agreement:.4%} of the pixels have the same class, "
            f"at least {found.required:.2%} is required; {time}\n"
        )
    return 0 if all(entry.comparison.passed for entry in compared) else 1


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
