"""Files of TensorFlow that no layers compute: one line with operator, place and remedy."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from tests.children import run_command
from tflite_tools.contract import read_contract
from tflite_tools.to_keras.importer import import_file

_KERNEL = tf.constant(np.random.default_rng(1).normal(size=(3, 3, 3, 4)).astype(np.float32))
_NAMES = tf.constant(["sky", "road", "tree", "car"])


def _features(image):
    return tf.nn.relu(tf.nn.conv2d(image, _KERNEL, 2, "SAME"))


class Condition(tf.Module):
    def run(self, image):
        x = _features(image)
        return tf.cond(tf.reduce_mean(x) > 0.5, lambda: tf.sigmoid(x), lambda: x * 2.0)


class Loop(tf.Module):
    def run(self, image):
        x = _features(image)
        _, x = tf.while_loop(
            lambda step, y: tf.reduce_mean(y) < tf.cast(step, tf.float32),
            lambda step, y: (step + 1, tf.tanh(y)),
            [0, x],
        )
        return x


class Strings(tf.Module):
    def run(self, image):
        return tf.gather(_NAMES, tf.argmax(_features(image), -1))


class Table(tf.Module):
    def __init__(self):
        super().__init__()
        keys = tf.range(4, dtype=tf.int64)
        values = tf.lookup.KeyValueTensorInitializer(keys, _NAMES)
        self.table = tf.lookup.StaticHashTable(values, "none")

    def run(self, image):
        return self.table.lookup(tf.argmax(_features(image), -1))


class Variable(tf.Module):
    def __init__(self):
        super().__init__()
        self.mean = tf.Variable(tf.zeros((1, 4, 4, 4)))

    def run(self, image):
        self.mean.assign(0.5 * self.mean + 0.5 * _features(image))
        return self.mean * 1.0


class Custom(tf.Module):
    def run(self, image):
        x = _features(image)
        return tf.nn.erosion2d(x, tf.zeros((3, 3, 4)), (1, 1, 1, 1), "SAME", "NHWC", (1, 1, 1, 1))


class TwoSignatures(tf.Module):
    def run(self, image):
        return _features(image)

    def other(self, image):
        return tf.sigmoid(_features(image))


def _save(module, folder):
    spec = tf.TensorSpec((1, 8, 8, 3), tf.float32, name="image")
    names = ["run", "other"] if hasattr(module, "other") else ["run"]
    module.functions = {name: tf.function(getattr(module, name), [spec]) for name in names}
    signatures = {n: f.get_concrete_function() for n, f in module.functions.items()}
    tf.saved_model.save(module, str(folder), signatures=signatures)
    return names


def write(kind, path, *, select=False):
    """Converts a module; `select`: with TensorFlow's own operators inside."""
    folder = path.with_suffix("")
    names = _save(kind(), folder)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=names)
    converter.experimental_enable_resource_variables = True
    converter.allow_custom_ops = kind is Custom and not select
    if select:
        sets = tf.lite.OpsSet
        converter.target_spec.supported_ops = [sets.TFLITE_BUILTINS, sets.SELECT_TF_OPS]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        path.write_bytes(converter.convert())
    return path


CASES = [
    (Condition, False, r"operator \d+, IF \('.+'\), runs another subgraph.*one branch"),
    (Loop, False, r"operator \d+, WHILE \('.+'\), runs another subgraph.*fixed number of steps"),
    (Strings, False, r"operator \d+, GATHER \('.*\): not supported: it works on strings; .*--trim"),
    (Table, False, r"operator \d+, CALL_ONCE .*fills a hash table; .*constants in their place"),
    (Variable, False, r"operator \d+, (CALL_ONCE|VAR_HANDLE|READ_VARIABLE) .*variable.*constants"),
    (Custom, False, r"operator \d+, CUSTOM:Dilation2D .*: a custom operator, .*--trim_head='"),
    (Custom, True, r"operator \d+, CUSTOM:FlexDilation2D .*OpsSet.TFLITE_BUILTINS.*--trim_head='"),
    (TwoSignatures, False, r"2 subgraphs, for the signatures other, run; .*signature_keys="),
]


@pytest.mark.parametrize(("kind", "select", "message"), CASES)
def test_one_line_names_operator_place_and_remedy(tmp_path, kind, select, message):
    path = write(kind, tmp_path / "m.tflite", select=select)
    with pytest.raises(ValueError, match=message) as caught:
        import_file(path)
    assert "\n" not in str(caught.value)
    try:  # readers of masks refuse it, or read it: no traceback
        read_contract(path)
    except ValueError as error:
        assert "\n" not in str(error)


def test_what_stands_before_an_unknown_operator_is_imported(tmp_path):
    path = write(Custom, tmp_path / "m.tflite")
    with pytest.raises(ValueError) as caught:
        import_file(path)
    name = str(caught.value).rpartition("--trim_head=")[2].strip("'")
    assert import_file(path, name).description.nodes[-2].kind == "relu"  # and the negation


def test_the_command_says_it_in_one_line(tmp_path):
    path = write(Loop, tmp_path / "m.tflite")
    done = run_command(
        "tflite_tools.to_keras", f"--model={path}", f"--output_dir={tmp_path / 'out'}", timeout=120
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "WHILE" in line
    assert not (tmp_path / "out").exists()
