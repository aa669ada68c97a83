"""Tests of the fidelity on published models and real photos, with the documented bounds."""

import pathlib

import numpy as np
import pytest

from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.simulate import simulate_quantization
from deeplab_tf.weights.matching import load_named
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.input_contract import read_input_contract
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.to_keras import self_check
from tflite_tools.to_keras.fidelity import measure
from tflite_tools.to_keras.importer import import_file, import_graph
from tflite_tools.to_keras.pictures import built_in_pictures

VOC_PHOTOS, CAMVID_PHOTOS = 8, 2
TANH_RANGE = Preprocessing((127.5,), (127.5,))


def _photos(shared_dir: pathlib.Path, network, voc=VOC_PHOTOS):
    """Returns real photos as the network's input: long side scaled, gray padding."""
    contract = network.contract
    height, width, _ = network.description.input_shape
    data_dir = shared_dir / "data"
    animals = open_dataset("voc", data_dir / "voc_animals", split="val")
    roads = open_dataset("camvid", data_dir / "camvid", split="val")
    photos = [animals.image(index * 7) for index in range(voc)]
    photos += [roads.image(index * 40) for index in range(CAMVID_PHOTOS)]
    return [contract.real_values(place(photo, (height, width))[0][None]) for photo in photos]


def _measure(path, network, images, simulated=False):
    description = network.description
    if simulated:
        description = simulate_quantization(description, network.ranges)
    model = build_model(description)
    report = load_named(model, network.arrays)
    assert not (report.missing or report.mismatched or report.unused), report.lines()
    return measure(FileRunner(path), model, real_inputs=images)


def test_float_deeplab(shared_dir):
    path = shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"
    assert not import_file(path).contract.is_known  # a float file has no normalization
    network = import_file(path, given=TANH_RANGE)
    result = _measure(path, network, _photos(shared_dir, network))
    assert result.equal_classes >= 0.995
    assert result.largest_difference < 1e-3


@pytest.mark.slow
def test_integer_deeplab(shared_dir):
    path = shared_dir / "models" / "deeplabv3_mnv2_pascal_quant.tflite"
    network = import_file(path)
    assert network.contract.preprocessing == Preprocessing()
    images = _photos(shared_dir, network)
    assert _measure(path, network, images).equal_classes >= 0.98
    # Measured 1.0: the same integers up to the arg max.
    assert _measure(path, network, images, simulated=True).equal_classes >= 0.998


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tf2_mobilenet_v2_1.0_224_ptq.tflite", "mobilenet_v2_1.0_224_quant.tflite"]
)
def test_imagenet_classifiers(shared_dir, name):
    path = shared_dir / "models" / name
    network = import_file(path)
    images = _photos(shared_dir, network, voc=20)
    assert _measure(path, network, images).correlation > 0.97  # of 1001 probabilities, 8 bits
    simulated = _measure(path, network, images, simulated=True)
    assert simulated.equal_classes == 1.0
    assert simulated.largest_difference < 1 / 256


def test_swapped_channels_are_detected(shared_dir):
    """The measure itself must fail on a network that reads BGR."""
    path = shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite"
    network = import_file(path, given=TANH_RANGE)
    first = next(key for key in network.arrays if network.arrays[key].shape[:3] == (3, 3, 3))
    network.arrays[first] = network.arrays[first][:, :, ::-1]
    images = _photos(shared_dir, network, voc=2)
    assert _measure(path, network, images).equal_classes < 0.995


def test_other_input_size_of_the_official_model(shared_dir):
    network = import_file(shared_dir / "models" / "deeplabv3_mnv2_pascal_quant.tflite")
    assert build_model(network.description, (321, 481)).output_shape == (None, 321, 481)


def test_only_the_operators_that_an_output_needs_are_read(shared_dir):
    """A file with a custom operator and seven outputs has one output that can be imported."""
    folder = shared_dir / "models" / "edgetpu_uncompiled"
    path = folder / "posenet__bodypix_mobilenet_v1_075_512_512_16_quant_decoder.tflite"
    with pytest.raises(ValueError, match=r"operator 43, CUSTOM:PosenetDecoderOp"):
        import_file(path)
    with pytest.raises(ValueError, match=r"operator 43, CUSTOM:PosenetDecoderOp .*before the outp"):
        import_file(path, "poses")
    network = import_file(path, "float_segments")
    assert build_model(network.description).output_shape == (None, 33, 33, 1)
    assert np.isfinite(network.arrays["float_segments1/kernel"]).all()


def test_old_hybrid_file_has_the_kernels_of_its_float_twin(shared_dir):
    """Its 15 kernels have type UINT8 and zero point 0, but the runtime reads signed bytes."""
    folder = shared_dir / "models" / "third_party"
    graph = read_graph(folder / "pt_unet_person_dyn.tflite")
    unsigned = [tensor for tensor in graph.tensors if tensor.type_name == "UINT8"]
    assert len(unsigned) == 15
    hybrid = import_file(folder / "pt_unet_person_dyn.tflite").arrays
    exact = import_file(folder / "pt_unet_person_float.tflite").arrays
    largest_step = max(float(tensor.quantization.scale[0]) for tensor in unsigned)
    for name, values in exact.items():
        if values.ndim == 4:  # half a step plus float32 rounding
            assert np.abs(hybrid[name] - values).max() <= 0.501 * largest_step, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "third_party/wo_meet_144x256_integer_quant.tflite",  # HARD_SWISH, pools, TRANSPOSE_CONV
        "third_party/ps_prisma_quant.tflite",  # TRANSPOSE_CONV
        "third_party/tk_bisenetv2_256_int.tflite",  # AVERAGE_POOL_2D, SOFTMAX before ARG_MAX
        "deeplabv3_mnv2_ade20k_int8.tflite",  # AVERAGE_POOL_2D
    ],
)
def test_simulated_file_gives_the_same_integers(shared_dir, name):
    graph = read_graph(shared_dir / "models" / name)
    network = import_graph(graph)
    pictures = built_in_pictures(network.description.input_shape)
    contract = read_input_contract(graph.path, graph, given=Preprocessing.of(1))
    inputs = [contract.real_values(picture) for picture in pictures[1:3]]
    result = self_check.check(graph, network, inputs=inputs, description="two pictures")
    assert result.kernels is Kernels.XNNPACK
    (output,) = result.outputs
    assert output.agreement == 1.0
    assert not output.deviates


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "outputs"),
    [
        ("third_party/mp_hand_landmark_lite", 4),
        ("third_party/mp_palm_detection_lite", 2),
        ("third_party/mp_pose_detection", 2),  # sparse weights
        ("third_party/mp_selfie_segmentation", 1),  # MediaPipe's transposed convolution
        ("third_party/ps_gpucom7", 1),  # padding of channels
        ("user_networks/attention", 1),  # products of computed matrices, layer norm
        ("user_networks/detection_and_masks", 2),
    ],
)
def test_published_float_files_come_back_exactly(shared_dir, name, outputs):
    graph = read_graph(shared_dir / "models" / f"{name}.tflite")
    network = import_graph(graph)
    pictures = built_in_pictures(network.description.input_shape)
    contract = read_input_contract(graph.path, graph, given=TANH_RANGE)
    inputs = [contract.real_values(picture) for picture in pictures[1:3]]
    result = self_check.check(graph, network, inputs=inputs, description="two pictures")
    assert not result.not_run
    assert len(result.outputs) == outputs
    for output in result.outputs:
        # One step of float32 at 1 where an output hardly varies.
        assert output.largest_difference <= 1e-4 * output.value_range + 1e-7, output.line()


@pytest.mark.slow
def test_hair_segmentation_places_values_where_the_runtime_does(shared_dir):
    """Noise, so that no window holds equal values: where a picture is constant, rounding decides
    which of four equal values is the largest."""
    graph = read_graph(shared_dir / "models" / "third_party" / "tk_hair_segmentation.tflite")
    network = import_graph(graph)
    noise = np.random.default_rng(0).uniform(0, 1, (1, 512, 512, 4)).astype(np.float32)
    found = self_check.check(graph, network, inputs=[noise], description="noise")
    (output,) = found.outputs
    assert output.largest_difference <= 1e-5 * output.value_range
    assert output.agreement == 1.0
    assert found.inputs == "noise"
    pictures = [np.float32(picture) / 255 for picture in built_in_pictures((512, 512, 4))[:2]]
    found = self_check.check(graph, network, inputs=pictures, description="two pictures")
    assert found.inputs.startswith("noise, since")
    assert found.outputs[0].largest_difference <= 1e-4 * found.outputs[0].value_range
