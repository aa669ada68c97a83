"""Checks SavedModels and frozen graphs from others for operators that reach beyond tensors.

A graph is a program. TensorFlow runs parts of it while it loads (initializers of resources, the
saver) and while constants are folded, so every node of every graph and function is checked before
anything is loaded:

    stateful operator          -> refused, unless it uses only variables, calls or random numbers
    stateless operator         -> refused if it reads a file, calls Python or another library
    SaveV2, MergeV2Checkpoints -> removed: nothing here saves
    RestoreV2                  -> allowed only where nothing but the saver can run it
"""

import contextlib
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.framework.types_pb2 import DT_STRING
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

from deeplab_tf import bounded_file
from deeplab_tf.scratch import scratch_folder

TRUST_FLAG = "--trust_saved_model"
SAVED_MODEL = "saved_model.pb"
LARGEST_PROTOBUF = 2**31 - 1
"""Bytes; what protocol buffers can hold."""
_STATEFUL = re.compile(
    "VarHandleOp|Variable|VariableV2|VariableShape|VarIsInitializedOp|ReadVariableOp|"
    "Assign(?:Add|Sub)?VariableOp|DisableCopyOnRead|DestroyResourceOp|Resource(?:Sparse)?Apply.+|"
    "Resource(?:Gather|GatherNd|Scatter.+|StridedSliceAssign)|"
    "StatefulPartitionedCall|If|While|Case|Assert|CheckNumerics(?:V2)?|GuaranteeConst|DeviceIndex|"
    "Empty|TensorArray.*V3|RandomUniform|RandomUniformInt|RandomStandardNormal|TruncatedNormal|"
    "RandomShuffle|RandomGamma|RandomPoissonV2|Multinomial|ParameterizedTruncatedNormal|"
    "Stateful(?:Uniform|UniformInt|UniformFullInt|StandardNormalV2|TruncatedNormal|RandomBinomial)|"
    "StatelessRandomGetAlg|RngSkip|RngReadAndSkip|NonDeterministicInts"
)
"""Stateful operators that use only variables, functions of the same file and random numbers."""
_STATELESS = re.compile(
    "ReadFile|MatchingFiles|ImmutableConst|GenerateVocabRemapping|InitializeTable.*|Lookup.*|"
    "Reader.*|(?:Decode|Encode)Proto.*|.*Dataset.*|GetOptions|ComputeBatchSize|GetElementAtIndex|"
    "PyFuncStateless|XlaCustomCall.*|XlaLaunch.*|TPU.*|InfeedEnqueue.*|Debug.*|Copy|CopyHost|"
    "SymbolicGradient|BatchFunction|Batch|Unbatch|UnbatchGrad|Queue.*|Barrier.*"
)
"""Operators that read files, call other code or keep threads although they count as stateless."""
_WRITERS = ("SaveV2", "MergeV2Checkpoints")
_READER = "RestoreV2"


@contextlib.contextmanager
def checked_saved_model(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a temporary copy of a SavedModel that is safe to load.

    It holds the checked graph, and links to the variables and assets of the original.

    Args:
        folder: of the SavedModel.

    Yields:
        the folder to load.

    Raises:
        ValueError: not a SavedModel, or an operator that is refused.
    """
    if not (folder / SAVED_MODEL).is_file():
        raise ValueError(
            f"{folder}: not a SavedModel (expected a folder with {SAVED_MODEL}); give a frozen "
            "graph as --frozen_graph"
        )
    saved = SavedModel()
    try:
        content = bounded_file.read_bytes(folder / SAVED_MODEL, limit=LARGEST_PROTOBUF)
        saved.ParseFromString(content)
    except DecodeError as error:
        raise ValueError(f"{folder}: {SAVED_MODEL} is damaged ({error}); save it again") from error
    as_objects = len(saved.meta_graphs) == 1 and saved.meta_graphs[0].HasField("object_graph_def")
    for meta_graph in saved.meta_graphs:
        _remove_writers(meta_graph.graph_def)
        _clear_file_name(meta_graph)
        _refuse(folder, meta_graph.graph_def, allowed=_restoring(meta_graph, as_objects))
    with scratch_folder("saved-model") as checked:
        (checked / SAVED_MODEL).write_bytes(saved.SerializeToString())
        for part in ("variables", "assets"):
            if (folder / part).is_dir():
                (checked / part).symlink_to((folder / part).resolve())
        yield checked


def check_graph(path: pathlib.Path, graph: GraphDef) -> None:
    """Checks the operators of a frozen graph.

    Args:
        path: its file, for the message.
        graph: the graph.

    Raises:
        ValueError: an operator is refused.
    """
    _refuse(path, graph, allowed=frozenset())


def _remove_writers(graph: GraphDef) -> None:
    """Replaces operators that save, which have no outputs, by NoOp."""
    for _, nodes in _bodies(graph):
        for node in nodes:
            if node.op in _WRITERS:
                waits_for = [name for name in node.input if name.startswith("^")]
                del node.input[:]
                node.input.extend(waits_for)
                node.attr.clear()
                node.op = "NoOp"


def _clear_file_name(meta_graph: MetaGraphDef) -> None:
    """Replaces the saver's stored file name by a placeholder that TensorFlow fills in."""
    name = _tensor(meta_graph.saver_def.filename_tensor_name)
    for node in meta_graph.graph_def.node:
        if node.name == name:
            del node.input[:]
            node.attr.clear()
            node.op = "Placeholder"
            node.attr["dtype"].type = DT_STRING
            node.attr["shape"].shape.SetInParent()  # a scalar


def _restoring(meta_graph: MetaGraphDef, as_objects: bool) -> frozenset[tuple[str, str]]:
    """Lists (function, node) of each RestoreV2 that reads the model's own variables or never runs.

    A SavedModel with objects is restored by Python; its saver's function never runs unless another
    function or an object names it. A SavedModel without objects is restored by nodes of the main
    graph, from the file name that TensorFlow fills in.
    """
    graph = meta_graph.graph_def
    if not as_objects:
        file_name = meta_graph.saver_def.filename_tensor_name
        return frozenset(
            ("", node.name)
            for node in graph.node
            if node.op == _READER
            and [_tensor(name) for name in node.input[:1]] == [_tensor(file_name)]
        )
    called = {name for f in graph.library.function for name in _called(f.node_def)}
    objects = meta_graph.object_graph_def.SerializeToString()
    return frozenset(
        (function.signature.name, node.name)
        for function in graph.library.function
        for node in function.node_def
        if node.op == _READER
        and function.signature.name not in called
        and function.signature.name.encode() not in objects
        and "api_implements" not in function.attr
    )


def _tensor(name: str) -> str:
    return name.removesuffix(":0")


def _called(nodes: Iterable[NodeDef]) -> Iterator[str]:
    """Names of the functions that nodes call, by attribute or as their operator."""
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            yield from (function.name for function in value.list.func)


def _bodies(graph: GraphDef) -> Iterator[tuple[str, Sequence[NodeDef]]]:
    """Yields the nodes of the graph (named "") and of each of its functions."""
    yield "", graph.node
    for function in graph.library.function:
        yield function.signature.name, function.node_def


def _refuse(path: pathlib.Path, graph: GraphDef, *, allowed: frozenset[tuple[str, str]]) -> None:
    functions = {function.signature.name for function in graph.library.function}
    for function, nodes in _bodies(graph):
        for node in nodes:
            if node.op == _READER and (function, node.name) in allowed:
                continue
            if reason := _reason(node.op, functions):
                where = f"the function {function}" if function else "the graph"
                raise ValueError(
                    f"{path}: the operator {node.op} ({node.name} in {where}) {reason}; loading it "
                    f"would run its author's program; give {TRUST_FLAG} if you trust the author"
                )


def _reason(name: str, functions: set[str]) -> str:
    """Returns why an operator is refused; "" if it is not, or if it names a function."""
    definition = op_def_registry.get(name)
    if definition is None:
        return "" if name in functions else "is unknown to this TensorFlow"
    if definition.is_stateful and not _STATEFUL.fullmatch(name):
        return "may reach beyond the network (files, Python, network, devices)"
    if _STATELESS.fullmatch(name):
        return "may reach beyond the network (files, other libraries)"
    return ""
