"""Checks on the graph alone: what a file says about itself, without running it."""

from tflite_tools.contract import class_count
from tflite_tools.diagnosis.case import INTEGER_TYPES, Case
from tflite_tools.diagnosis.finding import Finding, problem, some, warning
from tflite_tools.diagnosis.observation import Observations
from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.operators import CONVOLUTIONS

_RESIZES = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
_MOVERS = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", *_RESIZES)
"""Operators that bring logits somewhere else and change no order among the classes."""
_BEHIND_RESIZE = (
    *("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "CAST", "QUANTIZE", "DEQUANTIZE"),
    *("SOFTMAX", "ARG_MAX", "GATHER"),
)
"""Operators of a head after the logits have their size."""
_FEW_IMAGES = 16


def float_islands(case: Case, seen: Observations) -> list[Finding]:
    """Float arithmetic between integer operators."""
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
    if case.manifest and _asked_for_float(case.manifest.quantization):
        return [warning("float_islands", evidence, "Asked for at export; slow on accelerators.")]
    return [
        problem(
            "float_islands",
            evidence,
            "Use a layer that has an integer kernel, or keep it out of the graph (the argmax can "
            "run on the processor); convert with integer operators only, which refuses islands.",
        )
    ]


def _asked_for_float(quantization: dict | None) -> bool:
    return "keep_float" in str(quantization or "")


def space_to_batch(case: Case, seen: Observations) -> list[Finding]:
    """Atrous convolutions that a dynamic batch has taken apart."""
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
                "one operator, half the time, and accelerators take them.",
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
    """Integer weights, float arithmetic: easily mistaken for an integer file."""
    del seen
    graph = case.graph
    convolutions = [operator for operator in graph.operators if operator.kind in CONVOLUTIONS]
    hybrid = [
        operator
        for operator in convolutions
        if graph.tensors[operator.outputs[0]].is_float
        and graph.tensors[operator.inputs[1]].type_name in INTEGER_TYPES
        and graph.tensors[operator.inputs[1]].data is not None
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
        "(export.to_tflite --variants=int8); dynamic range gains size, rarely time."
    )
    if claims:
        return [problem("dynamic_range", f"called {claims[0]!r}, but {evidence}", cure)]
    return [warning("dynamic_range", evidence, f"If you wanted full integer: {cure}")]


def argmax_after_cast(case: Case, seen: Observations) -> list[Finding]:
    """Logits that lost their fractions before the class was chosen."""
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
    """The operator that rounds what `tensor` holds, looking back over mere movers."""
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
    """Resize convention of an operator; None as options stands for the schema's defaults."""
    if getattr(operator.options, "alignCorners", False):
        return "align-corners"
    return "half-pixel" if getattr(operator.options, "halfPixelCenters", False) else "legacy"


def _resizes(graph: Graph) -> list[Operator]:
    """Those that matter: from one single pixel every convention gives the same."""
    return [
        operator
        for operator in graph.operators
        if operator.kind in _RESIZES
        and max(graph.tensors[operator.inputs[0]].shape[1:3], default=1) > 1
    ]


def _logits_resize(graph: Graph) -> Operator | None:
    """The resize that brings logits to the photo's size, looking back from the output."""
    operator = graph.producer(graph.outputs[0])
    while operator is not None and operator.kind in _BEHIND_RESIZE:
        operator = graph.producer(operator.inputs[0])
    found = operator is not None and operator.kind == "RESIZE_BILINEAR"
    return operator if found and operator in _resizes(graph) else None


def _other_than_trained(case: Case) -> str:
    """What the logits' resize is against what the manifest has on record, or ""."""
    manifest = case.manifest
    if manifest is None or manifest.resize is None or manifest.head.endswith("_low"):
        return ""
    trained, operator = manifest.resize.replace("_", "-"), _logits_resize(case.graph)
    if operator is None or convention(operator) == trained:
        return ""
    return (
        f"the logits' resize, operator {operator.position} {operator.kind}, is "
        f"{convention(operator)}, the manifest says {trained}"
    )


def _resize_pairs(case: Case, seen: Observations) -> list[tuple[Operator, Operator]]:
    """Resizes of the file and the reference: by name, else in order among those of one size."""
    if case.reference_graph is None:
        return []
    tensors = case.reference_graph.tensors
    theirs = {operator.outputs[0]: operator for operator in _resizes(case.reference_graph)}
    pairs, unnamed = [], []
    for operator in _resizes(case.graph):
        namesake = theirs.pop(seen.pairs.get(operator.outputs[0], -1), None)
        if namesake is None:
            unnamed.append(operator)
        else:
            pairs.append((operator, namesake))
    for operator in unnamed:
        size = case.graph.tensors[operator.outputs[0]].shape[1:3]
        alike = (index for index in theirs if tensors[index].shape[1:3] == size)
        if (index := next(alike, None)) is not None:
            pairs.append((operator, theirs.pop(index)))
    return sorted(pairs, key=lambda pair: pair[0].position)


def resize_convention(case: Case, seen: Observations) -> list[Finding]:
    """Resizes that differ from the manifest's, from the reference's or among themselves."""
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
                f"{case.contract.width}: nothing says how the training does it",
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
    """What the manifest says of the calibration."""
    del seen
    images = ((case.manifest.calibration if case.manifest else None) or {}).get("images")
    if not case.is_integer or not isinstance(images, int) or images >= _FEW_IMAGES:
        return []
    make = problem if images <= 1 else warning
    return [
        make(
            "few_calibration_images",
            f"the manifest counts {images} calibration image(s)",
            "Calibrate on 100 photos or more that hold every class (--calibration_images).",
        )
    ]


def label_count(case: Case, seen: Observations) -> list[Finding]:
    """A list of names that is not as long as the classes are many."""
    del seen
    classes = class_count(case.graph, case.contract.num_classes)
    found = []
    if classes and case.labels and len(case.labels) != classes:
        found.append(
            problem(
                "label_count",
                f"the label list has {len(case.labels)} names, the file gives {classes} classes",
                "Use the list of the training, background included, one name an index.",
            )
        )
    if classes and case.dataset and case.dataset.label_set.num_classes != classes:
        found.append(
            problem(
                "label_count",
                f"{case.dataset.name} has {case.dataset.label_set.num_classes} classes, the file "
                f"gives {classes}",
                "Diagnose with the data set that the file was trained for.",
            )
        )
    return found
