"""Files of one layer run in the runtime and compute what their numbers say; fits of times."""

import numpy as np
import pytest

from export.compression.layer_files import LayerForm, layer_file
from export.compression.layer_times import TimedLayer, fit_cost, measure_layer_times
from export.compression.number_format import NumberFormat
from export.compression.polynomial import LayerCost
from tflite_tools.runtime.file_interpreter import FileInterpreter

FORMS = {
    "1x1": LayerForm(False, 6, 8, (1, 1), (1, 1), (1, 1), "same"),
    "strided": LayerForm(False, 7, 8, (3, 3), (2, 2), (1, 1), "valid"),
    "atrous": LayerForm(False, 9, 9, (3, 3), (1, 1), (2, 2), "same"),
    "depthwise": LayerForm(True, 7, 9, (3, 3), (2, 2), (1, 1), "same"),
}


@pytest.mark.parametrize("number", NumberFormat)
@pytest.mark.parametrize("name", FORMS)
def test_the_file_of_a_layer_runs_in_its_format(tmp_path, name, number):
    form = FORMS[name]
    path = tmp_path / "layer.tflite"
    path.write_bytes(layer_file(form, 16, outputs=16, number=number))
    file = FileInterpreter(path)
    random = np.random.default_rng(0)
    file.set_input(random.integers(-128, 128, (1, form.height, form.width, 16), np.int8))
    file.invoke()
    output = file.output()
    assert output.shape == (1, *form.output_size, 16)
    assert output.dtype == np.int8
    assert len(np.unique(output)) > 20  # neither empty nor all at the ends
    assert file.invoke_ms() > 0


def test_four_times_determine_the_cost():
    exact = LayerCost(0.2, 0.001, 0.002, 0.0001)
    points = [(64, 32), (32, 32), (64, 16), (32, 16)]
    found = fit_cost(points, [exact.at(*point) for point in points])
    assert found.at(48, 24) == pytest.approx(exact.at(48, 24), rel=1e-6)
    # A layer that got slower with fewer channels is noise: no part becomes negative.
    assert min(fit_cost(points, [1.0, 1.1, 0.9, 1.0]).__dict__.values()) >= 0


def test_a_single_time_falls_with_the_products():
    found = fit_cost([(40, 30)], [2.0])
    assert found.at(40, 30) == pytest.approx(2.0)
    assert found.at(20, 30) == pytest.approx(0.2 + 1.8 / 2)


def test_more_channels_take_more_time():
    wide = TimedLayer(LayerForm(False, 40, 40, (1, 1), (1, 1), (1, 1), "same"), 128, 128)
    deep = TimedLayer(LayerForm(True, 40, 40, (3, 3), (1, 1), (1, 1), "same"), 128, 128)
    found = measure_layer_times([wide, deep, wide])
    assert set(found) == {wide, deep}
    # A quarter of the products; the machine may be busy, but not by so much in every invoke.
    assert found[wide].at(64, 64) < 0.8 * found[wide].at(128, 128)
    assert found[deep].at(64, 64) < 0.95 * found[deep].at(128, 128)
