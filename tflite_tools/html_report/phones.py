"""Rows of a report from results that phones saved, see `tflite_tools.phone_page`."""

import pathlib
from collections.abc import Sequence

from tflite_tools.contract import ModelContract
from tflite_tools.deployment.phone_result import compare_with_file, read_phone_result
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.manifest import sha256_of


def read_phones(paths: Sequence[pathlib.Path], contracts: Sequence[ModelContract]) -> list[dict]:
    """Returns one entry per file, phone and accelerator, in the order of the files.

    The masks are compared with our interpreter's on the phone's own pixels.

    Args:
        paths: the result files.
        contracts: files of the report.

    Raises:
        FileNotFoundError: no such result.
        ValueError: a result is damaged, or its phone ran no file of the report.
        RuntimeError: the runtime refuses a file.
    """
    found: list[tuple[int, dict]] = []
    for path in paths:
        result = read_phone_result(path)
        ran = {model.sha256: model.file for model in result.models}
        fitting = [
            (number, contract)
            for number, contract in enumerate(contracts)
            if sha256_of(read_model_bytes(contract.path)) in ran
        ]
        if not fitting:
            raise ValueError(
                f"{path}: the phone ran {', '.join(ran.values())}, none of the report's files "
                "(by sha256); give the files that its page was made of"
            )
        for number, contract in fitting:
            for entry in compare_with_file(result, contract.path):
                latency = entry.run.latency_ms
                values = {
                    "model": contract.name,
                    "device": result.device,
                    "run_on": entry.run.accelerator,
                    "photo": result.photo,
                    "latency_ms": latency
                    and dict(zip(("median", "p90", "runs"), latency, strict=True)),
                    "agreement": entry.comparison.agreement,
                    "required": entry.comparison.required,
                    "passed": entry.comparison.passed,
                }
                found.append((number, values))
    return [values for _, values in sorted(found, key=lambda item: item[0])]
