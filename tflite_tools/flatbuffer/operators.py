"""The operator table: the properties of each `.tflite` operator, one row per operator.

To support a new operator, add its row here and one function that computes it
(docs/contributing: "How to add an operator").

Source: schema.fbs and the registry of the runtime's kernels (versions, same-scale rules).
"""

import dataclasses

from ai_edge_litert import schema_py_generated as schema

ANY_RANK = range(9)
_IMAGE, _MATRIX = range(4, 5), range(2, 3)
_MATRICES, _VECTORS = range(2, 9), range(1, 9)

NAMES = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}
"""{number in the schema: name}."""


@dataclasses.dataclass(frozen=True)
class OperatorTraits:
    """Properties of one operator.

    Attributes:
        data: input slot of the data tensor; None: every input that is not constant.
        function: name in `deeplab_tf.graph.functions` of the function that it computes, for
            operators that need no import rule; else "".
        several_outputs: whether its import rule looks at `OperatorView.slot`.
        weights: input slot of the weights, or None.
        bias: input slot of the bias, or None.
        channel_axis: axis of the weights that holds the output channels.
        least_inputs: number of inputs that the native kernel reads without a check.
        optional: slots that may be omitted (index -1).
        any_optional: whether every slot may be omitted.
        input_ranks: {slot: numbers of dimensions that the native kernel accepts there}.
        output_rank: numbers of dimensions of the output.
        same_scale: whether its integer kernel requires one scale for inputs and output.
        float_kernel: whether it can be computed in float32 inside an integer file.
        int16_version: lowest version whose kernel accepts 16-bit activations; None: no version.
        version: lowest version whose kernel accepts 8-bit activations.
    """

    data: int | None = 0
    function: str = ""
    several_outputs: bool = False
    weights: int | None = None
    bias: int | None = None
    channel_axis: int = 0
    least_inputs: int = 0
    optional: frozenset[int] = frozenset()
    any_optional: bool = False
    input_ranks: dict[int, range] = dataclasses.field(default_factory=dict)
    output_rank: range = ANY_RANK
    same_scale: bool = False
    float_kernel: bool = False
    int16_version: int | None = None
    version: int = 1

    @property
    def is_convolution(self) -> bool:
        """Whether it multiplies constant weights: convolutions and dense layers."""
        return self.weights is not None

    @property
    def slots(self) -> tuple[int, int, int]:
        """Input slots of data, weights and bias of a convolution or dense layer.

        Raises:
            ValueError: the operator has no weights.
        """
        if self.data is None or self.weights is None or self.bias is None:
            raise ValueError("the operator has no weights")
        return self.data, self.weights, self.bias

    def may_omit(self, slot: int) -> bool:
        """Returns whether the input of a slot may be omitted."""
        return self.any_optional or slot in self.optional or slot == self.bias


_CONVOLUTION = OperatorTraits(
    weights=1,
    bias=2,
    least_inputs=2,
    input_ranks={0: _IMAGE, 1: _IMAGE},
    output_rank=_IMAGE,
    float_kernel=True,
    version=3,
)
_BINARY = OperatorTraits(data=None, least_inputs=2, float_kernel=True, version=2)
_UNARY = OperatorTraits(least_inputs=1)
_ACTIVATION = OperatorTraits(least_inputs=1, float_kernel=True, version=2)
_POOL = OperatorTraits(
    least_inputs=1, input_ranks={0: _IMAGE}, output_rank=_IMAGE, float_kernel=True, version=2
)
_RESIZE = OperatorTraits(
    least_inputs=2, input_ranks={0: _IMAGE}, output_rank=_IMAGE, same_scale=True, version=2
)
_RECURRENT = OperatorTraits(any_optional=True)
_replace = dataclasses.replace

OPERATORS: dict[str, OperatorTraits] = {
    "CONV_2D": _replace(_CONVOLUTION, int16_version=4),
    "DEPTHWISE_CONV_2D": _replace(_CONVOLUTION, channel_axis=3, int16_version=5),
    "TRANSPOSE_CONV": _replace(
        _CONVOLUTION, data=2, bias=3, least_inputs=3, input_ranks={1: _IMAGE, 2: _IMAGE}
    ),
    "FULLY_CONNECTED": OperatorTraits(
        weights=1, bias=2, least_inputs=2, input_ranks={1: _MATRIX}, version=4
    ),
    "BATCH_MATMUL": OperatorTraits(
        data=None, least_inputs=2, input_ranks={0: _MATRICES, 1: _MATRICES}
    ),
    "ADD": _replace(_BINARY, int16_version=2),
    "SUB": _BINARY,
    "MUL": _BINARY,
    "MINIMUM": _BINARY,
    "MAXIMUM": _BINARY,
    "CONCATENATION": OperatorTraits(
        data=None, least_inputs=1, same_scale=True, float_kernel=True, int16_version=2, version=2
    ),
    "MEAN": OperatorTraits(least_inputs=2, float_kernel=True, int16_version=3, version=2),
    "RESIZE_BILINEAR": _replace(_RESIZE, float_kernel=True, int16_version=2),
    "RESIZE_NEAREST_NEIGHBOR": _RESIZE,
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _replace(_POOL, same_scale=True),
    "RELU": _ACTIVATION,
    "RELU6": _ACTIVATION,
    "LEAKY_RELU": _ACTIVATION,
    "PRELU": OperatorTraits(least_inputs=2, float_kernel=True),
    "LOGISTIC": _ACTIVATION,
    "HARD_SWISH": OperatorTraits(least_inputs=1, float_kernel=True),
    "SOFTMAX": _ACTIVATION,
    "QUANTIZE": OperatorTraits(least_inputs=1, int16_version=2),
    "DEQUANTIZE": OperatorTraits(least_inputs=1, int16_version=2, version=2),
    "CAST": _UNARY,
    "NEG": _UNARY,
    "ELU": _UNARY,
    "TANH": _UNARY,
    "RELU_N1_TO_1": _UNARY,
    "RELU_0_TO_1": _UNARY,
    "EXPAND_DIMS": _replace(_UNARY, same_scale=True),
    "STRIDED_SLICE": _replace(_UNARY, least_inputs=4, same_scale=True),
    "PADV2": OperatorTraits(least_inputs=3, same_scale=True, version=2),
    "RESHAPE": _replace(_UNARY, same_scale=True),
    "SQUEEZE": _replace(_UNARY, same_scale=True),
    "ARG_MAX": OperatorTraits(least_inputs=2, input_ranks={0: _VECTORS}, version=2),
    "PAD": OperatorTraits(least_inputs=2, same_scale=True, version=2),
    "TILE": OperatorTraits(least_inputs=2, same_scale=True, version=2),
    "GATHER": OperatorTraits(least_inputs=2),
    "DEPTH_TO_SPACE": OperatorTraits(
        least_inputs=1, input_ranks={0: _IMAGE}, output_rank=_IMAGE, same_scale=True
    ),
    "SQUARED_DIFFERENCE": OperatorTraits(
        data=None, function="squared_difference", least_inputs=2, version=2
    ),
    "RSQRT": OperatorTraits(function="rsqrt", least_inputs=1, version=2),
    "DIV": OperatorTraits(data=None, function="divide", least_inputs=2),
    **{
        kind: OperatorTraits(function=function, least_inputs=1)
        for kind, function in (
            ("EXP", "exponential"),
            ("LOG", "logarithm"),
            ("SQRT", "square_root"),
            ("ABS", "absolute"),
            ("SQUARE", "square"),
            ("FLOOR", "floor"),
            ("CEIL", "ceiling"),
            ("SIN", "sine"),
            ("COS", "cosine"),
            ("L2_NORMALIZATION", "l2_normalize"),
        )
    },
    **{
        kind: OperatorTraits(data=None, function=kind.lower(), least_inputs=2)
        for kind in (
            *("LESS", "LESS_EQUAL", "GREATER", "GREATER_EQUAL", "EQUAL", "NOT_EQUAL"),
            *("LOGICAL_AND", "LOGICAL_OR"),
        )
    },
    "LOGICAL_NOT": OperatorTraits(function="logical_not", least_inputs=1),
    "SELECT": OperatorTraits(data=None, function="select", least_inputs=3),
    "SELECT_V2": OperatorTraits(data=None, function="select", least_inputs=3),
    "SPACE_TO_DEPTH": OperatorTraits(
        least_inputs=1, input_ranks={0: _IMAGE}, output_rank=_IMAGE, same_scale=True
    ),
    "POW": OperatorTraits(data=None, function="power", least_inputs=2),
    "FLOOR_DIV": OperatorTraits(data=None, function="floor_divide", least_inputs=2),
    "GELU": OperatorTraits(least_inputs=1),
    "SUM": OperatorTraits(least_inputs=2),
    "REDUCE_MAX": OperatorTraits(least_inputs=2, same_scale=True),
    "REDUCE_MIN": OperatorTraits(least_inputs=2, same_scale=True),
    "SLICE": OperatorTraits(least_inputs=3, same_scale=True, version=2),
    "PACK": OperatorTraits(data=None, least_inputs=1, same_scale=True, version=2),
    "UNPACK": OperatorTraits(several_outputs=True, least_inputs=1, same_scale=True, version=2),
    "SPLIT_V": OperatorTraits(several_outputs=True, least_inputs=3, same_scale=True, version=2),
    "SPLIT": OperatorTraits(
        data=1, several_outputs=True, least_inputs=2, same_scale=True, version=2
    ),
    "TRANSPOSE": OperatorTraits(least_inputs=2, same_scale=True, int16_version=4, version=2),
    "MIRROR_PAD": OperatorTraits(least_inputs=2, same_scale=True, version=2),
    "CUSTOM:Convolution2DTransposeBias": OperatorTraits(least_inputs=3),
    "CUSTOM:MaxPoolingWithArgmax2D": OperatorTraits(several_outputs=True, least_inputs=1),
    "CUSTOM:MaxUnpooling2D": OperatorTraits(data=None, least_inputs=2),
    "SPACE_TO_BATCH_ND": OperatorTraits(least_inputs=3, version=2),
    "BATCH_TO_SPACE_ND": OperatorTraits(least_inputs=3, version=2),
    **dict.fromkeys(
        (
            *("LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM"),
            *("UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN", "SVDF"),
        ),
        _RECURRENT,
    ),
}
"""{name in the schema: properties}."""

UNKNOWN = OperatorTraits()
"""Properties of an operator without a row: nothing is assumed or checked."""


def traits(kind: str) -> OperatorTraits:
    """Returns the row of an operator; `UNKNOWN` where it has none.

    Args:
        kind: name in the schema.
    """
    return OPERATORS.get(kind, UNKNOWN)


def number_of(kind: str) -> int:
    """Returns the number of a builtin operator in the schema.

    Args:
        kind: name in the schema.
    """
    return getattr(schema.BuiltinOperator, kind)


CONVOLUTIONS = tuple(kind for kind, row in OPERATORS.items() if row.is_convolution)
"""Operators with constant weights."""
