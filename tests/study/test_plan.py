"""Study files: which cells they have, and what is refused before anything runs."""

import json

import pytest

from study import command_flags
from study.command_flags import check_flags, flags_of
from study.plan import read_study, study_from_json
from study.stage import Stage, argument, command_line

GRID = {
    "width": {"narrow": {"width_multiplier": 0.35}, "wide": {"width_multiplier": 1.0}},
    "quantization": {"after": {}, "aware": {"quantize_delay_step": 2}},
}


def study(**changes):
    values = {"name": "s", "train": {"dataset": "synthetic", "train_steps": 4}, "grid": GRID}
    return study_from_json({**values, **changes})


def test_cells_are_every_combination_and_a_value_wins_over_what_all_share():
    grid = {**GRID, "steps": {"long": {"train_steps": 9}}}
    cells = study(grid=grid, variants=["float32", "qat_int8"]).cells
    assert [cell.name for cell in cells] == [
        "width-narrow_quantization-after_steps-long",
        "width-narrow_quantization-aware_steps-long",
        "width-wide_quantization-after_steps-long",
        "width-wide_quantization-aware_steps-long",
    ]
    assert cells[1].train == {
        "dataset": "synthetic",
        "train_steps": 9,
        "width_multiplier": 0.35,
        "quantize_delay_step": 2,
    }
    assert [cell.variants for cell in cells[:2]] == [("float32",), ("float32", "qat_int8")]


def test_exclusion_takes_out_a_combination_with_one_or_several_values():
    left = study(exclude=[{"width": "wide", "quantization": ["aware"]}]).cells
    assert "width-wide_quantization-aware" not in {cell.name for cell in left}
    assert len(left) == 3
    with pytest.raises(ValueError, match="leaves no cell"):
        study(exclude=[{"width": ["narrow", "wide"]}])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grids": {}}, r"unknown key grids; known: name, train, grid"),
        ({"grid": {}}, r'"grid" has no axis'),
        ({"grid": {"width": {}}}, r"axis width has no value"),
        ({"grid": {**GRID, "size": {"a": {"width_multiplier": 2}}}}, r"width and size both set"),
        ({"grid": {"a b": {"c": {}}}}, r"an axis must be letters.*'a b'"),
        ({"grid": {"a": {"../up": {}}}}, r"a value of axis a must be letters.*'\.\./up'"),
        ({"grid": {"list": {"a": {"dataset": "voc"}}}}, r"axis list sets dataset.*a study for"),
        ({"grid": {"a": {"b": 3}}}, r"a b must be \{flag: value\}, got 3"),
        ({"exclude": [{"depth": "x"}]}, r"names axis 'depth'; expected one of width, quantization"),
        ({"exclude": [{"width": "x"}]}, r"names width 'x'; expected one of narrow, wide"),
        ({"exclude": [{"width": [["narrow"]]}]}, r"names width \['narrow'\]; expected one of"),
        ({"variants": [["int8"]]}, r"\"variants\" must hold strings, got \['int8'\]"),
        ({"variants": []}, r'"variants": expected at least one, all different'),
        ({"variants": "int8"}, r'"variants" must be a list'),
        ({"train": {"train_steps": 4}}, r'"train" names no data set'),
        ({"export": {"heads": ["logits", "argmax"]}}, r'"heads" of "export" must be one head'),
        (
            {"grid": {"width": GRID["width"]}, "variants": ["qat_int8"]},
            r"no cell sets quantize_delay_step",
        ),
    ],
)
def test_faults_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        study(**changes)


def test_a_teacher_is_another_cell_and_none_waits_for_itself():
    def taught(**values):
        return study(grid={"net": {name: {"teacher": t} for name, t in values.items()}})

    grid = {"net": {"large": {}, "small": {"teacher": "cell:net-large"}}}
    assert [cell.needs for cell in study(grid=grid).cells] == [(), ("net-large",)]
    assert study(grid={"net": {"a": {"teacher": "runs/other"}}}).cells[0].needs == ()
    with pytest.raises(ValueError, match="which is no cell of the grid; expected one of net-a"):
        taught(a="cell:net-b")
    with pytest.raises(ValueError, match="wait for each other's teacher: net-a, net-b"):
        taught(a="cell:net-b", b="cell:net-a", c="runs/other")


def test_a_file_that_is_no_study_says_so(tmp_path):
    path = tmp_path / "study.json"
    with pytest.raises(FileNotFoundError, match="no such study file"):
        read_study(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"study\.json: Expecting property name"):
        read_study(path)
    path.write_text('{"name": "s", "grid": {"a": {"b": {}, "b": {}}}}')
    with pytest.raises(ValueError, match="key 'b' occurs twice"):
        read_study(path)
    path.write_text(json.dumps({"name": "s", "train": {"dataset": "voc"}}))
    with pytest.raises(ValueError, match='no "grid"; a study needs'):
        read_study(path)


def test_flags_are_written_as_absl_reads_them():
    flags = {"run_dir": "a b", "flip": False, "decoder": True, "crop_size": [96, 128]}
    assert command_line(Stage.TRAIN, flags)[1:] == [
        *("-m", "deeplab_tf.train", "--run_dir=a b", "--noflip", "--decoder"),
        "--crop_size=96,128",
    ]
    assert argument("learning_rate", 1e-05) == "--learning_rate=1e-05"


@pytest.fixture(scope="module")
def real_flags():
    """Asked once from the two commands; the third differs in nothing that is tested here."""
    return {stage.module: flags_of(stage.module) for stage in (Stage.TRAIN, Stage.EVALUATE)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"dataset": "synthetic", "steps": 4}}, r'"train": deeplab_tf\.train has no f'),
        ({"grid": {"a": {"b": {"run_dir": "x"}}}}, r"a b sets run_dir, which the study sets"),
        (
            {"grid": {"a": {"b": {"network": "deplab"}}}},
            r"a b: network: expected one of .*deeplab.*",
        ),
        (
            {"grid": {"a": {"b": {"train_steps": 2.5}}}},
            r"train_steps: expected an integer, got 2\.5",
        ),
        ({"grid": {"a": {"b": {"flip": 1}}}}, r"flip: expected true or false, got 1"),
        ({"grid": {"a": {"b": {"min_scale": "x"}}}}, r"min_scale: expected a number, got 'x'"),
        ({"grid": {"a": {"b": {"teacher": 3}}}}, r"teacher: expected a string, got 3"),
        ({"grid": {"a": {"b": {"crop_size": None}}}}, r"crop_size: expected a list, got None"),
        (
            {"evaluate": {"splitt": "val"}},
            r"study\.report\.score has no flag 'splitt'; expected one of",
        ),
    ],
)
def test_flags_are_checked_against_the_commands_themselves(
    changes, message, real_flags, monkeypatch
):
    monkeypatch.setattr(command_flags, "flags_of", real_flags.__getitem__)
    with pytest.raises(ValueError, match=message):
        check_flags(study(**changes))


def test_every_example_fits_its_commands(real_flags, monkeypatch, request):
    monkeypatch.setattr(
        command_flags, "flags_of", lambda module: real_flags.get(module) or flags_of(module)
    )
    examples = sorted((request.config.rootpath / "studies").glob("*.json"))
    assert examples
    for path in examples:
        check_flags(read_study(path))
