"""When a run's folder takes other settings, and how it says that it does not."""

import dataclasses

import pytest

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.models.config import ModelConfig
from deeplab_tf.training.config import TrainingConfig
from deeplab_tf.training.run_folder import Phase, RunFolder

CONFIG = TrainingConfig(ModelConfig(2), "folder", train_steps=10)
LABELS = LabelSet.from_names(["sky", "sea"])


def test_a_run_that_failed_before_its_first_step_takes_other_settings(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.prepare(CONFIG, LABELS)
    other = dataclasses.replace(CONFIG, model=ModelConfig(3))
    folder.prepare(other, LabelSet.from_names(["sky", "sea", "land"]))
    assert '"num_classes": 3' in folder.config.read_text()
    assert folder.read_labels().num_classes == 3


@pytest.mark.parametrize("made", ["history.jsonl", "float.npz", "checkpoints/float/checkpoint"])
def test_a_run_that_began_says_which_settings_differ(tmp_path, made):
    folder = RunFolder(tmp_path)
    folder.prepare(CONFIG, LABELS)
    (tmp_path / made).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / made).touch()
    folder.prepare(CONFIG, LABELS)
    other = dataclasses.replace(CONFIG, model=ModelConfig(3), seed=4)
    with pytest.raises(FileExistsError, match="other settings") as error:
        folder.prepare(other, LABELS)
    message = str(error.value)
    assert "model.num_classes 2 -> 3" in message
    assert "seed 0 -> 4" in message
    assert "aspp" not in message
    assert folder.weights(Phase.FLOAT).name == "float.npz"
