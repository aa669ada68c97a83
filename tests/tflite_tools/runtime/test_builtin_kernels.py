"""Files that XNNPACK refuses and the runtime's own kernels run."""

import dataclasses

import numpy as np
from PIL import Image

from deeplab_tf.data.registry import open_dataset
from tests.tflite_tools.surgery import INT8, unpacked, write
from tflite_tools.benchmarking.report import benchmark_text
from tflite_tools.benchmarking.timing import BenchmarkOptions, benchmark
from tflite_tools.contract import read_contract
from tflite_tools.deployment.golden import GoldenOptions, write_golden
from tflite_tools.evaluation.evaluation import EvaluationOptions, evaluate
from tflite_tools.evaluation.tables import result_to_json, terminal_table
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.runtime.pool import InterpreterPool


def rescaled(path):
    """The zoo's file whose last resize has another scale at its output than at its input: XNNPACK
    has no kernel for that, the built-in one copies the integers."""
    model = unpacked()
    tensors = model.graph.tensors
    last = model.operators("RESIZE_BILINEAR")[-1]
    tensors[last.outputs[0]].quantization.scale = np.float32([0.5])
    return write(path, model)


def of_the_runner(runner):
    return runner.kernels


def test_which_kernels_run_is_known_of_each_file(tmp_path):
    contracts = [read_contract(INT8), read_contract(rescaled(tmp_path / "rescaled.tflite"))]
    with InterpreterPool(contracts, 1) as pool:
        outcomes = list(pool.run(Task(index, of_the_runner, arguments=()) for index in (0, 1)))
    assert [outcome.failure for outcome in outcomes] == ["", ""]
    assert [outcome.value for outcome in outcomes] == [Kernels.XNNPACK, Kernels.BUILTIN]
    assert FileRunner(contracts[0].path).kernels is Kernels.XNNPACK
    assert FileRunner(contracts[1].path).kernels is Kernels.BUILTIN


def test_tables_say_which_kernels_ran(tmp_path):
    contracts = [read_contract(INT8), read_contract(rescaled(tmp_path / "rescaled.tflite"))]
    options = EvaluationOptions(limit=1, latency_repeats=0)
    scenes = open_dataset("synthetic", None, split="val")
    dataset = dataclasses.replace(scenes, label_set=contracts[0].label_set)
    results = evaluate(contracts, dataset, options=options)
    table = terminal_table(results, dataset, options=options)
    assert "kernels: XNNPACK and builtin, only builtin for rescaled" in table
    assert "rescaled: XNNPACK refuses it: the builtin kernels ran it" in table
    assert (
        "kernels: XNNPACK and builtin\n"
        in terminal_table(results[:1], dataset, options=options) + "\n"
    )
    found = [result_to_json(result, dataset, options=options)["kernels"] for result in results]
    assert found == ["XNNPACK and builtin", "builtin"]


def test_benchmark_says_which_kernels_ran(tmp_path):
    contract = read_contract(rescaled(tmp_path / "rescaled.tflite"))
    options = BenchmarkOptions(repeats=2, warmup=1)
    results, peaks = benchmark([contract], options)
    machine = {"processor": "", "cores": 1, "features": [], "integer_dot_product": True}
    text = benchmark_text(results, peaks, options=options, machine=machine)
    assert results[0].failure == ""
    assert "on seeded noise; kernels: builtin. ratio" in text
    assert "rescaled: XNNPACK refuses it: the builtin kernels ran it" in text


def test_golden_pair_of_one_kernel_set_demands_the_least(tmp_path):
    """Nothing tells how far another kernel set may lie off."""
    photo = tmp_path / "photo.png"
    Image.fromarray(open_dataset("synthetic", None, split="val").image(0)).save(photo)
    model = rescaled(tmp_path / "rescaled.tflite")
    found = write_golden(GoldenOptions(model, photo, output_dir=tmp_path / "golden"))
    assert found["made_with"] == "builtin kernels"
    assert found["tolerance"]["measured_between_kernel_sets"] is None
    assert found["tolerance"]["min_class_agreement"] == 0.9
