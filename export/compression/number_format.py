"""The number formats that a layer of an integer file can compute in."""

import enum


class NumberFormat(enum.Enum):
    """Weights and activations of one layer."""

    INT8 = "int8"
    """int8 weights and activations."""
    INT16 = "int16"
    """int8 weights, 16-bit activations: the runtime's built-in kernels, slow on most processors."""
    FLOAT32 = "float32"
    """float32 weights and activations; converted from and to int8 around the layer."""
