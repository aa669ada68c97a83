"""Compares a `.tflite` on Arm processors, GPUs and in browsers with the runtime here, without them.

python -m tflite_tools.check_device --model=int8.tflite
python -m tflite_tools.check_device --model=int8.tflite --device=arm64,gpu --input=street.jpg

Emulators and software drivers run the device's own runtime on the same pictures: a check of
numbers, never of speed. What they need is fetched into a cache folder once. Exit status: 0 if every
device agrees (those that this machine cannot check are skipped with a reason), 1 if one does not,
or if --device names one that cannot be checked here.
"""

import json
import pathlib
import sys

from absl import flags

from deeplab_tf import atomic_file, command
from tflite_tools.deployment.devices import report
from tflite_tools.deployment.devices.check import (
    DeviceResult,
    Folders,
    Subject,
    check_devices,
    read_subject,
)
from tflite_tools.deployment.devices.names import emulated_devices, parse_device
from tflite_tools.deployment.phone_page.web_runtime import default_cache
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

FLAGS = flags.FLAGS


def _define_flags() -> None:
    names = ", ".join(device.name for device in emulated_devices())
    flags.DEFINE_string("model", "", "File to check.")
    flags.DEFINE_list(
        "device",
        "",
        f"Of {names}; arm64:CPU for another processor; VENDOR:SOC compiles for an NPU. Default: "
        "all of the first that this machine can check.",
    )
    flags.DEFINE_list("input", "", "Photos; default: two built-in pictures.")
    flags.DEFINE_string("json", "", "Also writes the result here.")
    flags.DEFINE_string(
        "output_dir", "", "Keeps files that were compiled for an NPU; default: removed."
    )
    flags.DEFINE_string("cache_dir", "", "Folder of the devices' parts; default: the user's cache.")
    define_normalization_flags()


def main() -> int:
    """Checks the file on every device and prints the result.

    Returns:
        1 if a device disagrees, or one that was asked for cannot be checked, else 0.
    """
    if not FLAGS.model:
        raise ValueError("expected a file, got none; give --model=FILE.tflite")
    asked = [parse_device(name) for name in FLAGS.device if name]
    photos = [pathlib.Path(name) for name in FLAGS.input if name]
    subject = read_subject(
        pathlib.Path(FLAGS.model), photos=photos, preprocessing=read_preprocessing()
    )
    cache = pathlib.Path(FLAGS.cache_dir) if FLAGS.cache_dir else default_cache()
    compiled = pathlib.Path(FLAGS.output_dir) if FLAGS.output_dir else None
    sys.stdout.write(f"{report.title(subject)}\n")
    sys.stdout.flush()
    results = check_devices(subject, asked or emulated_devices(), folders=Folders(cache, compiled))
    _tell(subject, results)
    wrong = [result for result in results if not result.passed]
    return 1 if any(asked or not result.skipped for result in wrong) else 0


def _tell(subject: Subject, results: list[DeviceResult]) -> None:
    rows = report.table(results)
    sentences = "\n".join(report.sentence(result) for result in results)
    sys.stdout.write(f"\n{rows}\n\n" if rows else "\n")
    sys.stdout.write(f"{sentences}\n{report.NUMBERS_ONLY}\n")
    if FLAGS.json:
        content = json.dumps(report.to_json(subject, results), indent=1)
        atomic_file.write_text(FLAGS.json, content + "\n")


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()
