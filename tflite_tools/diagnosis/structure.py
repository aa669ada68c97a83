"""Checks on the graph only, without running the file."""

from tflite_tools.contract import class_count
from tflite_tools.diagnosis.case import INTEGER_TYPES, Case
from tflite_tools.diagnosis.finding import Finding, problem, some, warning
from tflite_tools.diagnosis.observation import Observations
from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, traits

_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
_MOVERS = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", *_RESIZES)
"""Operators that move or resize logits and keep the order among the classes."""
_BEHIND_RESIZE = (
    *("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CAST", "QUANTIZE", "DEQUANTIZE"),
    *("SOFTMAX", "ARG_MAX", "GATHER"),
)
"""Operators of a head behind the last resize of the logits."""
_FEW_IMAGES = 16


def float_islands(case: Case, seen: Observations) -> list[Finding]:
    """Finds float arithmetic between integer operators."""
    del seen
    if not case.is_integer:
        return []
    graph = case.graph
    edges = ("QUANTIZE", "DEQUANTIZE")
    islands = [
        operator
        for operator in graph.operators
        if operator.kind not in edges
        and any(graph.tensors[i].is_float for i in (*operator.inputs, *operator.outputs) if i >= 0)
    ]
    if not islands:
        return []
    crossings = sum(operator.kind in edges for operator in graph.operators)
    evidence = (
        f"{len(islands)} of {len(graph.operators)} operators of an integer file compute in float: "
        f"{some([f'{o.position} {o.kind}' for o in islands])}; {crossings} QUANTIZE and DEQUANTIZE"
    )
    if case.manifest and _requested_float(case.manifest.quantization):
        return [warning("float_islands", evidence, "Requested at export; slow on accelerators.")]
    return [
        problem(
            "float_islands",
            evidence,
            "Use a layer that has an integer kernel, or move it out of the graph (the argmax can "
            "run on the processor); convert with integer operators only, which refuses islands.",
        )
    ]


def _requested_float(quantization: dict | None) -> bool:
    return "keep_float" in str(quantization or "")


def space_to_batch(case: Case, seen: Observations) -> list[Finding]:
    """Finds atrous convolutions that a dynamic batch has split into several operators."""
    del seen
    found = [
        operator
        for operator in case.graph.operators
        if operator.kind in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
    ]
    signature = case.input_tensor.shape_signature
    if found:
        return [
            problem(
                "space_to_batch",
                f"{len(found)} SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND, first operator "
                f"{found[0].position}; input signature {list(signature)}",
                "Convert from a concrete function with static batch 1: atrous convolutions stay "
                "one operator, take half the time, and run on accelerators.",
            )
        ]
    if signature[:1] == (-1,):
        return [
            warning(
                "dynamic_batch",
                f"input signature {list(signature)}",
                "Convert with static batch 1: browsers and accelerators refuse other files.",
            )
        ]
    return []


def dynamic_range(case: Case, seen: Observations) -> list[Finding]:
    """Finds integer weights with float arithmetic, easily mistaken for an integer file."""
    del seen
    graph = case.graph
    convolutions = [operator for operator in graph.operators if operator.kind in CONVOLUTIONS]
    hybrid = [
        operator
        for operator in convolutions
        if graph.tensors[operator.outputs[0]].is_float
        and (weights := _weights(graph, operator)).type_name in INTEGER_TYPES
        and weights.data is not None
    ]
    if 2 * len(hybrid) <= len(convolutions):
        return []
    variant = case.manifest.variant if case.manifest else ""
    stem = case.contract.path.stem.lower()
    claims = [text for text in (variant, stem) if "int8" in text or "full_integer" in text]
    evidence = (
        f"{len(hybrid)} of {len(convolutions)} convolutions have integer weights and float "
        f"activations; input {case.contract.input_dtype}"
    )
    cure = (
        "Convert with a representative data set and integer operators only "
        "(export.to_tflite --variants=int8); dynamic range reduces size, rarely time."
    )
    if claims:
        return [problem("dynamic_range", f"called {claims[0]!r}, but {evidence}", cure)]
    return [warning("dynamic_range", evidence, f"For a full-integer file: {cure}")]


def _weights(graph: Graph, convolution: Operator) -> Tensor:
    _, slot, _ = traits(convolution.kind).slots
    return graph.tensors[convolution.inputs[slot]]


def argmax_after_cast(case: Case, seen: Observations) -> list[Finding]:
    """Finds logits that are rounded before the class is chosen."""
    del seen
    graph = case.graph
    ends = [operator.inputs[0] for operator in graph.operators if operator.kind == "ARG_MAX"]
    if not case.contract.classes_output:
        ends.append(graph.outputs[0])
    for end in ends:
        cast = _rounding_before(graph, end)
        if cast is None:
            continue
        before = graph.tensors[cast.inputs[0]].type_name
        after = graph.tensors[cast.outputs[0]].type_name
        return [
            problem(
                "argmax_after_cast",
                f"operator {cast.position} ({cast.kind}, {before} -> {after}) rounds the logits "
                "before the class is chosen: differences below 1 are ties, and a tie is class 0",
                "Take the argmax of the logits, and cast its result.",
            )
        ]
    return []


def _rounding_before(graph: Graph, tensor: int) -> Operator | None:
    """Finds the operator that rounds a tensor, going back over operators that only move values."""
    operator = graph.producer(tensor)
    while operator is not None:
        source = graph.tensors[operator.inputs[0]]
        target = graph.tensors[operator.outputs[0]]
        if operator.kind == "CAST" and source.is_float and not target.is_float:
            return operator
        if operator.kind in ("FLOOR", "ROUND", "CEIL"):
            return operator
        if operator.kind not in (*_MOVERS, "CAST", "QUANTIZE", "DEQUANTIZE"):
            return None
        operator = graph.producer(source.index)
    return None


def convention(operator: Operator) -> str:
    """Returns the resize convention of an operator; options None mean the schema's defaults.

    Args:
        operator: a resize.
    """
    if getattr(operator.options, "alignCorners", False):
        return "align-corners"
    return "half-pixel" if getattr(operator.options, "halfPixelCenters", False) else "legacy"


def _resizes(graph: Graph) -> list[Operator]:
    """Returns the resizes of more than one pixel; of one pixel all conventions give the same."""
    return [
        operator
        for operator in graph.operators
        if operator.kind in _RESIZES
        and max(graph.tensors[operator.inputs[0]].shape[1:3], default=1) > 1
    ]


def _logits_resize(graph: Graph) -> Operator | None:
    """Finds the resize of the logits to the input's size, going back from the output."""
    operator = graph.producer(graph.outputs[0])
    while operator is not None and operator.kind in _BEHIND_RESIZE:
        operator = graph.producer(operator.inputs[0])
    found = operator is not None and operator.kind == "RESIZE_BILINEAR"
    return operator if found and operator in _resizes(graph) else None


def _other_than_trained(case: Case) -> str:
    """Describes how the logits' resize differs from the manifest, or returns ""."""
    manifest = case.manifest
    if manifest is None or manifest.resize is None or manifest.head.endswith("_low"):
        return ""
    trained, operator = manifest.resize.replace("_", "-"), _logits_resize(case.graph)
    if operator is None or convention(operator) == trained:
        return ""
    return (
        f"the logits' resize, operator {operator.position} {operator.kind}, is "
        f"{convention(operator)}, expected {trained} (manifest)"
    )


def _resize_pairs(case: Case, seen: Observations) -> list[tuple[Operator, Operator]]:
    """Matches resizes of file and reference by name, else in order among those of one size."""
    if case.reference_graph is None:
        return []
    tensors = case.reference_graph.tensors
    theirs = {operator.outputs[0]: operator for operator in _resizes(case.reference_graph)}
    pairs, unnamed = [], []
    for operator in _resizes(case.graph):
        counterpart = theirs.pop(seen.pairs.get(operator.outputs[0], -1), None)
        if counterpart is None:
            unnamed.append(operator)
        else:
            pairs.append((operator, counterpart))
    for operator in unnamed:
        size = case.graph.tensors[operator.outputs[0]].shape[1:3]
        alike = (index for index in theirs if tensors[index].shape[1:3] == size)
        if (index := next(alike, None)) is not None:
            pairs.append((operator, theirs.pop(index)))
    return sorted(pairs, key=lambda pair: pair[0].position)


def resize_convention(case: Case, seen: Observations) -> list[Finding]:
    """Finds resizes that differ from the manifest, from the reference or among themselves."""
    own = _resizes(case.graph)
    cure = (
        "Convert with the resize of the training (half_pixel_centers, align_corners); another one "
        "shifts masks by up to half a stride."
    )
    if evidence := _other_than_trained(case):
        return [problem("resize_convention", evidence, cure)]
    if case.contract.needs_resize and case.contract.alignment is None:
        rows, columns = case.contract.output_size
        return [
            warning(
                "resize_convention",
                f"the output of {rows}x{columns} is resized half-pixel to {case.contract.height}x"
                f"{case.contract.width}: the training's convention is not on record",
                "Write the convention of the training into the manifest (add_metadata --resize); "
                "another one shifts masks by up to half a stride.",
            )
        ]
    pairs = _resize_pairs(case, seen)
    differing = [pair for pair in pairs if convention(pair[0]) != convention(pair[1])]
    if differing:
        operator, other = differing[0]
        evidence = (
            f"{len(differing)} of {len(own)} resizes differ from the reference: operator "
            f"{operator.position} is {convention(operator)}, there {convention(other)}"
        )
        return [problem("resize_convention", evidence, cure)]
    kinds = {convention(operator) for operator in own}
    if len(kinds) > 1:
        return [
            warning(
                "resize_convention",
                f"the file mixes {' and '.join(sorted(kinds))} resizes: "
                + some([f"{o.position} {convention(o)}" for o in own]),
                "Use one convention, the one of the training; give --reference to compare.",
            )
        ]
    return []


def few_calibration_images(case: Case, seen: Observations) -> list[Finding]:
    """Checks the number of calibration images in the manifest."""
    del seen
    images = ((case.manifest.calibration if case.manifest else None) or {}).get("images")
    if not case.is_integer or not isinstance(images, int) or images >= _FEW_IMAGES:
        return []
    make = problem if images <= 1 else warning
    return [
        make(
            "few_calibration_images",
            f"the manifest records {images} calibration image(s)",
            "Calibrate on at least 100 photos that contain every class (--calibration_images).",
        )
    ]


def label_count(case: Case, seen: Observations) -> list[Finding]:
    """Finds a label list or a data set whose number of classes differs from the file's."""
    del seen
    classes = class_count(case.graph, case.contract.num_classes)
    found = []
    if classes and case.labels and len(case.labels) != classes:
        found.append(
            problem(
                "label_count",
                f"expected {classes} names in the label list (classes of the file), got "
                f"{len(case.labels)}",
                "Use the list of the training, background included, one name per index.",
            )
        )
    if classes and case.dataset and case.dataset.label_set.num_classes != classes:
        found.append(
            problem(
                "label_count",
                f"expected {case.dataset.label_set.num_classes} classes ({case.dataset.name}), got "
                f"{classes} from the file",
                "Diagnose with the data set that the file was trained on.",
            )
        )
    return found
