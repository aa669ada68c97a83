"""Writes the lines of Python and Kotlin that feed one file and read its mask.

The lines have the file's own numbers in them: they do what the interpreter runner of this project
does (photo scaled to fit, top left, the rest gray 128). The tests run the Python lines.
"""

import json

import numpy as np

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.preprocessing import PAD_PIXEL
from tflite_tools.contract import ModelContract
from tflite_tools.input_contract import PreprocessingSource, takes_bytes

_UNKNOWN = "not on record: ask who trained it, or compare readings with tflite_tools.segment"


def python_lines(contract: ModelContract, *, is_mask: bool) -> str:
    """Returns a program that prints the mask of photo.jpg.

    Args:
        contract: of the file.
        is_mask: whether its output is read as a mask.
    """
    mode = "RGB" if contract.channels == 3 else "L"
    gray = (PAD_PIXEL,) * 3 if contract.channels == 3 else PAD_PIXEL
    width, height = contract.width, contract.height
    lines = [
        "import numpy as np",
        "from ai_edge_litert.interpreter import Interpreter",
        "from PIL import Image",
        "",
        f'photo = Image.open("photo.jpg").convert("{mode}")',
        f"scale = min({width} / photo.width, {height} / photo.height)",
        "size = (round(photo.width * scale), round(photo.height * scale))",
        f'canvas = Image.new("{mode}", ({width}, {height}), {gray})',
        "canvas.paste(photo.resize(size, Image.Resampling.BILINEAR))",
        f"pixels = np.asarray(canvas).reshape(1, {height}, {width}, {contract.channels})",
        *_python_values(contract),
        *(["values = values.transpose(0, 3, 1, 2)"] if contract.channels_first else []),
        "",
        f"interpreter = Interpreter({json.dumps(contract.path.name)})",
        "interpreter.allocate_tensors()",
        'interpreter.set_tensor(interpreter.get_input_details()[0]["index"], values)',
        "interpreter.invoke()",
        f"details = interpreter.get_output_details()[{contract.output_position}]",
        'output = interpreter.get_tensor(details["index"])',
        *(["output = output.transpose(0, 2, 3, 1)"] if contract.output_channels_first else []),
    ]
    if is_mask:
        lines += _python_mask(contract)
    return "\n".join(lines) + "\n"


def _python_values(contract: ModelContract) -> list[str]:
    if contract.quantize_table() is None:
        return ["values = pixels  # the bytes themselves"]
    if _is_shifted(contract):
        return ["values = (pixels.astype(np.int16) - 128).astype(np.int8)  # the bytes less 128"]
    used = contract.preprocessing
    unsure = contract.preprocessing_source is PreprocessingSource.ASSUMED
    note = f"  # {_UNKNOWN}" if unsure else ""
    mean, std = _numbers(used.mean), _numbers(used.std)
    real = f"(pixels.astype(np.float32) - np.float32({mean})) / np.float32({std})"
    if contract.input_quantization is None:
        return [f"values = {real}{note}"]
    scale, zero_point = contract.input_quantization
    limits = np.iinfo(contract.input_dtype)
    return [
        f"values = {real}{note}",
        f"values = np.rint(values / {scale!r}) + {zero_point}",
        f"values = values.clip({limits.min}, {limits.max}).astype(np.{contract.input_dtype})",
    ]


def _is_shifted(contract: ModelContract) -> bool:
    return contract.input_dtype == np.int8 and takes_bytes(
        contract.preprocessing, contract.input_dtype, quantization=contract.input_quantization
    )


def _numbers(values: tuple[float, ...]) -> str:
    """Returns one number where all are equal, else a list."""
    if len(set(values)) == 1:
        return f"{values[0]:g}"
    return f"[{', '.join(f'{value:g}' for value in values)}]"


def _python_mask(contract: ModelContract) -> list[str]:
    rows, columns = contract.output_size
    width, height = contract.width, contract.height
    if contract.classes_output:
        lines = [f"mask = output.reshape({rows}, {columns}).astype(np.uint8)  # class numbers"]
        resize = [
            f"mask = Image.fromarray(mask).resize(({width}, {height}), Image.Resampling.NEAREST)",
            "mask = np.asarray(mask)",
        ]
        return [*lines, *(resize if contract.needs_resize else []), *_PYTHON_CUT]
    channels = contract.output_shape[3]
    lines = [f"scores = output.reshape({rows}, {columns}, {channels})"]
    if contract.needs_resize:
        if contract.alignment not in (None, Alignment.HALF_PIXEL):
            lines.append(
                f"# the training resized with {contract.alignment.value}; Pillow has half pixel"
            )
        lines += [
            "planes = np.moveaxis(scores.astype(np.float32), -1, 0)",
            "planes = [",
            f"    Image.fromarray(plane).resize(({width}, {height}), Image.Resampling.BILINEAR)",
            "    for plane in planes",
            "]",
            "scores = np.stack(planes, -1)",
        ]
    if contract.threshold is None:
        lines.append("mask = scores.argmax(-1).astype(np.uint8)  # class numbers")
    else:
        lines.append(f"mask = (scores[..., 0] > {contract.threshold:g}).astype(np.uint8)")
    return [*lines, *_PYTHON_CUT]


_PYTHON_CUT = [
    "mask = Image.fromarray(mask[: size[1], : size[0]])",
    "mask = mask.resize(photo.size, Image.Resampling.NEAREST)",
]


def kotlin_lines(contract: ModelContract, *, is_mask: bool, output_bytes: int) -> str:
    """Returns the lines of an Android app, for a Bitmap `photo` and a Context `context`.

    Args:
        contract: of the file.
        is_mask: whether its output is read as a mask.
        output_bytes: of the raw output.
    """
    width, height = contract.width, contract.height
    item = contract.input_dtype.itemsize
    count = f"{width} * {height} * {contract.channels}" + (f" * {item}" if item > 1 else "")
    gray = ", ".join([str(PAD_PIXEL)] * 3)
    lines = [
        f"val canvas = Bitmap.createBitmap({width}, {height}, Bitmap.Config.ARGB_8888)",
        f"val scale = minOf({width}f / photo.width, {height}f / photo.height)",
        "val place = RectF(0f, 0f, photo.width * scale, photo.height * scale)",
        "Canvas(canvas).apply {",
        f"    drawColor(Color.rgb({gray}))",
        "    drawBitmap(photo, null, place, Paint(Paint.FILTER_BITMAP_FLAG))",
        "}",
        f"val pixels = IntArray({width} * {height})",
        f"canvas.getPixels(pixels, 0, {width}, 0, 0, {width}, {height})",
        f"val input = ByteBuffer.allocateDirect({count}).order(ByteOrder.nativeOrder())",
        *_kotlin_pixels(contract),
        "",
        f"val model = context.assets.openFd({kotlin_text(contract.path.name)}).use {{ file ->",
        "    FileInputStream(file.fileDescriptor).channel.map(",
        "        FileChannel.MapMode.READ_ONLY, file.startOffset, file.declaredLength)",
        "}",
        "val interpreter = Interpreter(model)  // com.google.ai.edge.litert or org.tensorflow.lite",
        f"val output = ByteBuffer.allocateDirect({output_bytes}).order(ByteOrder.nativeOrder())",
        *_kotlin_run(contract),
        "output.rewind()",
    ]
    if is_mask:
        lines += _kotlin_mask(contract)
    return "\n".join(lines) + "\n"


def kotlin_text(text: str) -> str:
    """Returns a literal of Kotlin, which would compute what follows a "$".

    Args:
        text: any text.
    """
    return json.dumps(text).replace("$", "\\$")


def _kotlin_run(contract: ModelContract) -> list[str]:
    if contract.output_position == 0:
        return ["interpreter.run(input.rewind(), output)"]
    outputs = f"mapOf({contract.output_position} to output)"
    return [f"interpreter.runForMultipleInputsOutputs(arrayOf(input.rewind()), {outputs})"]


def _kotlin_pixels(contract: ModelContract) -> list[str]:
    colors = [
        "    val red = pixel shr 16 and 255",
        "    val green = pixel shr 8 and 255",
        "    val blue = pixel and 255",
    ]
    values = [f"    {line}" for line in _kotlin_values(contract)]
    if not contract.channels_first or contract.channels == 1:
        return ["for (pixel in pixels) {", *colors, *values, "}"]
    lines = []  # one plane after the other
    for name, color in zip(_COLORS, colors, strict=True):
        own = [line for line in values if name in line or "//" in line]
        lines += ["for (pixel in pixels) {", color, *own, "}"]
    return lines


_COLORS = ("red", "green", "blue")


def _kotlin_values(contract: ModelContract) -> list[str]:
    names = list(_COLORS)
    first = []
    if contract.channels == 1:
        first, names = ["val gray = (299 * red + 587 * green + 114 * blue) / 1000"], ["gray"]
    if contract.quantize_table() is None:
        return [*first, *(f"input.put({name}.toByte())" for name in names)]
    if _is_shifted(contract):
        return [*first, *(f"input.put(({name} - 128).toByte())" for name in names)]
    used = contract.preprocessing
    unsure = contract.preprocessing_source is PreprocessingSource.ASSUMED
    if unsure:
        first.append(f"// {_UNKNOWN}")
    for name, mean, std in zip(names, used.mean, used.std, strict=True):
        real = f"({name} - {mean:g}f) / {std:g}f"
        if contract.input_quantization is None:
            first.append(f"input.putFloat({real})")
            continue
        scale, zero_point = contract.input_quantization
        limits = np.iinfo(contract.input_dtype)
        steps = f"Math.round({real} / {scale:g}f) + {zero_point}"
        first.append(f"input.put(({steps}).coerceIn({limits.min}, {limits.max}).toByte())")
    return first


_KOTLIN_GET = {
    "float32": ("val scores = output.asFloatBuffer()", "scores[{index}]"),
    "uint8": ("", "output[{index}].toInt() and 255"),
    "int8": ("", "output[{index}].toInt()"),
    "int16": ("val scores = output.asShortBuffer()", "scores[{index}].toInt()"),
    "int32": ("val scores = output.asIntBuffer()", "scores[{index}]"),
    "int64": ("val scores = output.asLongBuffer()", "scores[{index}].toInt()"),
}


def _kotlin_mask(contract: ModelContract) -> list[str]:
    rows, columns = contract.output_size
    view, get = _KOTLIN_GET.get(str(contract.output_dtype), ("", "output[{index}].toInt()"))
    lines = [view] if view else []
    where = f"// {columns} x {rows}, row by row"
    if contract.classes_output:
        read = get.format(index="it")
        lines.append(f"val mask = IntArray({rows} * {columns}) {{ {read} }}  {where}")
    elif contract.threshold is not None:
        read = get.format(index="it")
        test = f"if (({read}) > {contract.threshold:g}) 1 else 0"
        lines.append(f"val mask = IntArray({rows} * {columns}) {{ {test} }}  {where}")
    else:
        classes = contract.output_shape[3]
        index = f"at * {classes} + it"
        if contract.output_channels_first:
            index = f"it * {rows} * {columns} + at"
        best = get.format(index=index)
        lines += [
            f"val mask = IntArray({rows} * {columns}) {{ at ->  {where}",
            f"    (0 until {classes}).maxByOrNull {{ {best} }}!!",
            "}",
        ]
    used = "place.width(), place.height()"
    if contract.needs_resize:
        factor = contract.width / columns
        used += f", each divided by {factor:.4g}"
    lines.append(f"// only the photo's part counts: {used}, top left")
    return lines
