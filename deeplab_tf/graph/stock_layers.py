"""Allow-list of the Keras classes that a serialized network may name: none runs foreign code.

Not on the list: Lambda (holds bytecode), TFSMLayer (loads a SavedModel), lookup layers (read a
file), and functions or modules of any other name (Keras would import them).
"""

import re
from collections.abc import Iterator
from typing import Any

NETWORKS = frozenset(("Functional", "Model", "Sequential"))
WRAPPERS = frozenset(
    ("Bidirectional", "RNN", "SpectralNormalization", "TimeDistributed", "Wrapper")
)
"""Layers that wrap another layer."""
_LAYER_NAMES = """
Activation ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average
AveragePooling1D AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D
BatchNormalization CategoryEncoding CenterCrop Concatenate Conv1D Conv1DTranspose Conv2D
Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D ConvLSTM2D ConvLSTM3D Convolution1D
Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D Convolution3DTranspose
Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Discretization Dot Dropout
ELU EinsumDense Embedding Flatten GRU GRUCell GaussianDropout GaussianNoise GlobalAveragePooling1D
GlobalAveragePooling2D GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D GlobalAvgPool3D
GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D GlobalMaxPooling1D GlobalMaxPooling2D
GlobalMaxPooling3D GroupNormalization Identity InputLayer LSTM LSTMCell Layer LayerNormalization
LeakyReLU LocallyConnected1D LocallyConnected2D Masking MaxPool1D MaxPool2D MaxPool3D MaxPooling1D
MaxPooling2D MaxPooling3D Maximum Minimum MultiHeadAttention Multiply Normalization PReLU Permute
RandomBrightness RandomContrast RandomCrop RandomFlip RandomHeight RandomRotation
RandomTranslation RandomWidth RandomZoom ReLU RepeatVector Rescaling Reshape Resizing
SeparableConv1D SeparableConv2D SeparableConvolution1D SeparableConvolution2D SimpleRNN
SimpleRNNCell Softmax SpatialDropout1D SpatialDropout2D SpatialDropout3D StackedRNNCells Subtract
ThresholdedReLU UnitNormalization UpSampling1D UpSampling2D UpSampling3D ZeroPadding1D
ZeroPadding2D ZeroPadding3D
"""
_OPERATIONS = ("TFOpLambda", "SlicingOpLambda")
"""Layers that call one function of TensorFlow, which their configuration names."""
_OPERATION_NAMES = """
__operators__.add __operators__.getitem __operators__.mul __operators__.neg __operators__.sub
__operators__.truediv
cast clip_by_value concat expand_dims gather identity reshape shape slice split squeeze stack
strided_slice tile transpose unstack broadcast_to pad compat.v1.shape compat.v1.transpose
compat.v1.squeeze compat.v1.gather compat.v1.pad compat.v1.expand_dims
image.resize compat.v1.image.resize_bilinear compat.v1.image.resize_nearest_neighbor linalg.matmul
math.abs math.add math.add_n math.divide math.exp math.log math.maximum math.minimum math.multiply
math.negative math.pow math.reduce_max math.reduce_mean math.reduce_min math.reduce_sum math.rsqrt
math.sigmoid math.sqrt math.square math.squared_difference math.subtract math.tanh math.truediv
math.l2_normalize math.softplus math.argmax
nn.avg_pool nn.avg_pool2d nn.bias_add nn.depth_to_space nn.elu nn.gelu nn.leaky_relu nn.max_pool
nn.max_pool2d nn.relu nn.relu6 nn.sigmoid nn.silu nn.softmax nn.softplus nn.space_to_depth nn.swish
"""
_OPERATION_FUNCTIONS = frozenset(_OPERATION_NAMES.split())
"""Names in TensorFlow's API of functions that only compute."""
LAYERS = WRAPPERS | frozenset(_LAYER_NAMES.split())
_ACTIVATION_NAMES = """
elu exponential gelu hard_sigmoid leaky_relu linear log_softmax mish relu relu6 selu sigmoid silu
softmax softmax_v2 softplus softsign swish tanh
"""
ACTIVATIONS = frozenset(_ACTIVATION_NAMES.split())
_INITIALIZER_NAMES = """
Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity LecunNormal LecunUniform Ones
Orthogonal RandomNormal RandomUniform TruncatedNormal VarianceScaling Zeros
"""
_INITIALIZERS = frozenset(_INITIALIZER_NAMES.split())
_REGULARIZERS = frozenset(("L1", "L1L2", "L2", "OrthogonalRegularizer"))
_CONSTRAINTS = frozenset(("MaxNorm", "MinMaxNorm", "NonNeg", "RadialConstraint", "UnitNorm"))
_VALUES = frozenset(("__tuple__", "__numpy__", "TensorShape", "Policy"))
_CLASSES = (
    NETWORKS
    | LAYERS
    | frozenset(_OPERATIONS)
    | _INITIALIZERS
    | _REGULARIZERS
    | _CONSTRAINTS
    | _VALUES
)
_SUBMODULES = "layers|initializers|regularizers|constraints|activations|mixed_precision|models"
_MODULES = re.compile(
    rf"(?:tf_)?keras(?:\.(?:{_SUBMODULES}))?"
    r"|(?:tf_)?keras(?:\.src)?\.engine\.(?:functional|sequential)"
)
_FUNCTION_MODULES = (None, "builtins", "keras.activations", "tf_keras.activations")
DEEPEST = 100
"""Most levels of a configuration; each network nested in a network takes four."""


def foreign_part(config: Any) -> str:
    """Returns the first name in a configuration that is not on the list.

    Args:
        config: configuration of a layer or a network, as `get_config` or JSON returns it; its
            own class is checked too. So are names of functions: Keras looks up "activation" and
            similar values by name when it builds a layer.

    Returns:
        The name; "" where every name is on the list.

    Raises:
        ValueError: the configuration is nested too deeply.
    """
    return next(_foreign_parts(config), "")


def _foreign_parts(config: Any) -> Iterator[str]:
    waiting = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError(f"the configuration is nested more than {DEEPEST} levels deep")
        if isinstance(value, dict):
            if "class_name" in value:
                yield from _foreign_names(value)
            yield from _foreign_functions(value)
            waiting += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(part, depth + 1) for part in value]


def _foreign_names(config: dict) -> Iterator[str]:
    """Yields the class, module and registered name of one object where they are not allowed."""
    name, module = config["class_name"], config.get("module")
    if name == "function":
        yield from _foreign_function(config)
        return
    if not isinstance(name, str) or name not in _CLASSES:
        yield str(name)
    if module is not None and not (isinstance(module, str) and _MODULES.fullmatch(module)):
        yield f"the module {module!r} of {name}"
    registered = config.get("registered_name")
    if registered is not None and registered != name:
        yield str(registered)
    if name in _OPERATIONS:
        settings = config.get("config")
        function = settings.get("function") if isinstance(settings, dict) else None
        if function not in _OPERATION_FUNCTIONS:
            yield f"the function {function!r}"


def _foreign_function(config: dict) -> Iterator[str]:
    name = config.get("config")
    named = isinstance(name, str) and name in ACTIVATIONS
    if not named or config.get("registered_name") not in (None, name):
        yield f"the function {name!r}"
    if config.get("module") not in _FUNCTION_MODULES:
        yield f"the module {config['module']!r} of the function {name!r}"


def _foreign_functions(config: dict) -> Iterator[str]:
    """Yields the values that a layer looks up by name and that are not allowed."""
    for key, value in config.items():
        known = _names_of(key)
        if known is not None and isinstance(value, str) and _plain(value) not in known:
            yield f"the {key} {value!r}"


def _names_of(key: Any) -> frozenset[str] | None:
    kinds = {
        "activation": ACTIVATIONS,
        "initializer": _INITIALIZERS,
        "regularizer": _REGULARIZERS,
        "constraint": _CONSTRAINTS,
    }
    known = kinds.get(str(key).rpartition("_")[2])
    return None if known is None else frozenset(map(_plain, known))


def _plain(name: str) -> str:
    """Returns one form for both spellings, "glorot_uniform" and "GlorotUniform"."""
    return name.replace("_", "").lower()
