"""Whole training runs on drawn scenes: killed and resumed, distributed, and with bad input."""

import json
import re
import signal
import socket
import time

import numpy as np
import pytest
import tensorflow as tf

from tests.children import Command
from tests.small_network import write_small_run

DEEPLAB = (
    "--width_multiplier=0.35",
    "--aspp=slim",
    "--aspp_channels=16",
    "--decoder_channels=16",
    "--crop_size=32,48",
)
COMMON = (
    "--dataset=synthetic",
    "--batch_size=2",
    "--quantize_calibration_images=4",
    "--validation_interval=1000",
    "--holdout_images=2",
    "--validation_split=holdout",
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The flag that starts from a small network."""
    return f"--init_from={write_small_run(tmp_path_factory.mktemp('small') / 'run')}"


def start(run_dir, *flags, environment=None):
    flags = (f"--run_dir={run_dir}", *COMMON, *flags)
    environment = {"CUDA_VISIBLE_DEVICES": "", **(environment or {})}
    return Command("deeplab_tf.train", *flags, environment=environment)


def finish(process):
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors[-3000:]
    return errors


def wait_for_checkpoint(process, run_dir, phase, step):
    wanted = run_dir / "checkpoints" / phase / "checkpoint"
    deadline = time.monotonic() + 300
    while not (wanted.is_file() and f"ckpt-{step}" in wanted.read_text()):
        assert process.poll() is None, process.errors()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_after_checkpoint(process, run_dir, phase, step):
    """SIGKILL as soon as the checkpoint of a step is there."""
    wait_for_checkpoint(process, run_dir, phase, step)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.slow
def test_killed_on_both_sides_of_the_switch_ends_with_the_same_bits(tmp_path, small):
    flags = ("--train_steps=10", "--quantize_delay_step=5", "--checkpoint_interval=2")
    flags += ("--deterministic", small)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(whole, *flags)
    finish(uninterrupted)
    kill_after_checkpoint(start(killed, *flags), killed, "float", 2)
    kill_after_checkpoint(start(killed, *flags), killed, "quantized", 8)
    errors = finish(start(killed, *flags))
    assert "quantized phase resumes from step 8" in errors
    for name in ("float.npz", "quantized.npz"):
        with np.load(whole / name) as expected, np.load(killed / name) as found:
            assert sorted(expected.files) == sorted(found.files)
            for key in expected.files:
                np.testing.assert_array_equal(found[key], expected[key], err_msg=key)
    # The quantized phase learned: its kernels are not the float phase's.
    with np.load(whole / "float.npz") as before, np.load(whole / "quantized.npz") as after:
        assert np.any(before["logits/kernel"] != after["quant_logits/kernel"])
    history = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    assert [(line["phase"], line["step"]) for line in history] == [("float", 5), ("quantized", 10)]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_ends_with_one_line_and_whole_files(tmp_path, small, number):
    run_dir = tmp_path / "run"
    process = start(run_dir, small, "--train_steps=100000", "--checkpoint_interval=2")
    wait_for_checkpoint(process, run_dir, "float", 2)
    second = start(run_dir, small, "--train_steps=100000", "--checkpoint_interval=2")
    _, refused = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"{run_dir}: another training is running here; wait until it ends" in refused
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "interrupted" in lines[0]
    assert lines[0].endswith("the same command resumes from the last checkpoint")
    assert "Traceback" not in errors
    assert not list(run_dir.glob(".*")), "a temporary file was left"
    assert tf.train.latest_checkpoint(run_dir / "checkpoints" / "float")


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.mark.slow
def test_two_workers_over_loopback_learn_and_agree(tmp_path, small):
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
        processes.append(
            start(
                tmp_path / "run",
                small,
                "--train_steps=12",
                "--learning_rate=0.05",
                "--checkpoint_interval=12",
                "--summary_interval=1",
                "--distribution=multi_worker",
                environment={"TF_CONFIG": json.dumps(task)},
            )
        )
    errors = [finish(process) for process in processes]
    found = (re.findall(r"step \d+ of \d+: loss ([\d.]+)", text) for text in errors)
    losses = [[float(loss) for loss in values] for values in found]
    assert len(losses[0]) == 12
    assert losses[0] == losses[1]  # each reports the mean over both
    assert np.mean(losses[0][-3:]) < np.mean(losses[0][:3])
    checkpoints = tmp_path / "run" / "checkpoints"
    first = tf.train.load_checkpoint(tf.train.latest_checkpoint(checkpoints / "float"))
    second = tf.train.load_checkpoint(tf.train.latest_checkpoint(checkpoints / "worker1"))
    names = [name for name in first.get_variable_to_shape_map() if name.startswith("model/")]
    assert len(names) == 17  # four kernels, a bias, three batch norms
    for name in names:
        np.testing.assert_array_equal(first.get_tensor(name), second.get_tensor(name), err_msg=name)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--crop_size=100,100",), 1, "height 100 is not a multiple of output_stride 16"),
        (("--crop_size=a,b",), 1, "--crop_size takes integers"),
        (("--optimizer=lion",), 2, "--optimizer=lion"),
        (("--split=nowhere",), 1, "unknown split 'nowhere'"),
        (("--dataset=camvid", "--data_dir=missing"), 1, "missing: no such folder"),
        (("--backbone_weights=missing.npz",), 1, "missing.npz: no such weights"),
        (("--init_from=missing",), 1, "missing: no such weights file"),
    ],
)
def test_bad_input_ends_with_one_line_and_leaves_no_folder(tmp_path, flags, status, message):
    process = start(tmp_path / "run", *DEEPLAB, *flags)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == status
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()
