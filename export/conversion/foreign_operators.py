"""SavedModels and frozen graphs from outside: refused where an operator could reach beyond tensors.

A graph is a program. TensorFlow runs parts of it while it loads (initializers of resources, the
saver) and while constants are folded, so every node of every graph and function is looked at
before anything is loaded:

    an operator with state     -> refused, unless it keeps to variables, calls or random numbers
    an operator without state  -> refused if it reads a file, calls Python or another library
    SaveV2, MergeV2Checkpoints -> taken out: nothing here saves
    RestoreV2                  -> only where the saver alone can run it
"""

import contextlib
import pathlib
import re
import tempfile
from collections.abc import Iterator

from google.protobuf.message import DecodeError
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.types_pb2 import DT_STRING
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
from tensorflow.python.framework import op_def_registry

TRUST_FLAG = "--trust_saved_model"
SAVED_MODEL = "saved_model.pb"
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
"""That touch no more than variables, functions of the same file and random numbers."""
_STATELESS = re.compile(
    "ReadFile|MatchingFiles|ImmutableConst|GenerateVocabRemapping|InitializeTable.*|Lookup.*|"
    "Reader.*|(?:Decode|Encode)Proto.*|.*Dataset.*|GetOptions|ComputeBatchSize|GetElementAtIndex|"
    "PyFuncStateless|XlaCustomCall.*|XlaLaunch.*|TPU.*|InfeedEnqueue.*|Debug.*|Copy|CopyHost|"
    "SymbolicGradient|BatchFunction|Batch|Unbatch|UnbatchGrad|Queue.*|Barrier.*"
)
"""That read files, call out or keep threads although TensorFlow counts them as without state."""
_WRITERS = ("SaveV2", "MergeV2Checkpoints")
_READER = "RestoreV2"


@contextlib.contextmanager
def checked_saved_model(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder to load in place of a SavedModel: its checked graph, its variables and assets.

    Raises:
        ValueError: not a SavedModel, or an operator that is refused.
    """
    if not (folder / SAVED_MODEL).is_file():
        raise ValueError(
            f"{folder}: not a SavedModel (expected a folder with {SAVED_MODEL}); a frozen graph "
            "goes to --frozen_graph"
        )
    saved = SavedModel()
    try:
        saved.ParseFromString((folder / SAVED_MODEL).read_bytes())
    except DecodeError as error:
        raise ValueError(f"{folder}: {SAVED_MODEL} is damaged ({error})") from error
    as_objects = len(saved.meta_graphs) == 1 and saved.meta_graphs[0].HasField("object_graph_def")
    for meta_graph in saved.meta_graphs:
        _remove_writers(meta_graph.graph_def)
        _forget_file_name(meta_graph)
        _refuse(folder, meta_graph.graph_def, allowed=_restoring(meta_graph, as_objects))
    with tempfile.TemporaryDirectory() as temporary:
        checked = pathlib.Path(temporary)
        (checked / SAVED_MODEL).write_bytes(saved.SerializeToString())
        for part in ("variables", "assets"):
            if (folder / part).is_dir():
                (checked / part).symlink_to((folder / part).resolve())
        yield checked


def check_graph(path: pathlib.Path, graph: GraphDef) -> None:
    """Raises ValueError for a frozen graph with an operator that is refused."""
    _refuse(path, graph, allowed=frozenset())


def _remove_writers(graph: GraphDef) -> None:
    """Operators that save have no outputs: in their place stands one that does nothing."""
    for _, nodes in _bodies(graph):
        for node in nodes:
            if node.op in _WRITERS:
                waits_for = [name for name in node.input if name.startswith("^")]
                del node.input[:]
                node.input.extend(waits_for)
                node.attr.clear()
                node.op = "NoOp"


def _forget_file_name(meta_graph: MetaGraphDef) -> None:
    """The saver's file name is TensorFlow's to put in; the file's own default goes."""
    name = _tensor(meta_graph.saver_def.filename_tensor_name)
    for node in meta_graph.graph_def.node:
        if node.name == name:
            del node.input[:]
            node.attr.clear()
            node.op = "Placeholder"
            node.attr["dtype"].type = DT_STRING
            node.attr["shape"].shape.SetInParent()  # a scalar


def _restoring(meta_graph: MetaGraphDef, as_objects: bool) -> frozenset[tuple[str, str]]:
    """(function, node) of each RestoreV2 that reads the SavedModel's own variables or never runs.

    A SavedModel with objects is restored by Python; its saver's function is never run, unless
    another function or an object names it. One without is restored by nodes of the main graph,
    from the file name that TensorFlow puts in.
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


def _called(nodes) -> Iterator[str]:
    """Functions that nodes call, by attribute or as their operator."""
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield value.func.name
            yield from (function.name for function in value.list.func)


def _bodies(graph: GraphDef):
    """("" or a function's name, nodes)."""
    yield "", graph.node
    for function in graph.library.function:
        yield function.signature.name, function.node_def


def _refuse(path: pathlib.Path, graph: GraphDef, *, allowed: frozenset[tuple[str, str]]) -> None:
    functions = {function.signature.name for function in graph.library.function}
    for place, nodes in _bodies(graph):
        for node in nodes:
            if node.op == _READER and (place, node.name) in allowed:
                continue
            if reason := _reason(node.op, functions):
                where = f"the function {place}" if place else "the graph"
                raise ValueError(
                    f"{path}: the operator {node.op} ({node.name} in {where}) {reason}; loading it "
                    f"would run its author's program. Give {TRUST_FLAG} if you trust the author"
                )


def _reason(name: str, functions: set[str]) -> str:
    """Why an operator is refused; "" where it is not, or where it is a function's name."""
    definition = op_def_registry.get(name)
    if definition is None:
        return "" if name in functions else "is unknown to this TensorFlow"
    if definition.is_stateful and not _STATEFUL.fullmatch(name):
        return "may reach beyond the network (files, Python, network, devices)"
    if _STATELESS.fullmatch(name):
        return "may reach beyond the network (files, other libraries)"
    return ""
