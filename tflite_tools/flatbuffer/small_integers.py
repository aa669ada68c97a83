"""Integers of fewer than 8 bits, which a file stores several to a byte.

The first value lies in the lowest bits of a byte, and the last byte is filled up with zeros
(schema.fbs, `TensorType`; the runtime's `PackInt4IntoInt8` and `UnpackPackedIntToInt8`).
"""

import numpy as np

BITS = {"INT4": 4, "INT2": 2, "UINT4": 4}
"""{name of the type in the schema: bits of a value}."""


def stored_bytes(count: int, *, type_name: str) -> int:
    """Returns the number of bytes of some values.

    Args:
        count: number of values.
        type_name: key of `BITS`.
    """
    return -(-count * BITS[type_name] // 8)


def unpack(stored: np.ndarray, count: int, *, type_name: str) -> np.ndarray:
    """Returns one value to an int8, uint8 for unsigned types.

    Args:
        stored: uint8 bytes.
        count: number of values.
        type_name: key of `BITS`.

    Raises:
        ValueError: there are more or fewer bytes than that many values need.
    """
    bits = BITS[type_name]
    if len(stored) != stored_bytes(count, type_name=type_name):
        raise ValueError(
            f"expected {stored_bytes(count, type_name=type_name)} bytes, got {len(stored)}"
        )
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = (np.asarray(stored, np.uint8)[:, None] >> shifts).ravel()[:count] & (2**bits - 1)
    if type_name.startswith("U"):
        return values
    # Moved to the top of the byte and back, the highest bit becomes the sign.
    return (values << (8 - bits)).view(np.int8) >> (8 - bits)


def pack(values: np.ndarray, *, type_name: str) -> np.ndarray:
    """Returns values as a file stores them; the inverse of `unpack`.

    Args:
        values: integers that the type can hold.
        type_name: key of `BITS`.

    Returns:
        uint8 bytes.
    """
    bits = BITS[type_name]
    per_byte = 8 // bits
    padded = np.zeros(-(-values.size // per_byte) * per_byte, np.uint8)
    padded[: values.size] = values.ravel().astype(np.int8).view(np.uint8) & (2**bits - 1)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return np.bitwise_or.reduce(padded.reshape(-1, per_byte) << shifts, axis=1).astype(np.uint8)
