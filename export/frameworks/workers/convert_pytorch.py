"""Converts an nn.Module or an exported program; runs in the PyTorch environment."""

import contextlib
import copy
import importlib.metadata
import importlib.util
import pathlib
import pickle
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import protocol
import torch

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "weights", "ema")
"""Names under which training programs keep the weights inside a checkpoint."""


class ChannelsLast(torch.nn.Module):
    """A network that takes and gives [1, height, width, channels].

    Attributes:
        names: of the outputs of the last run.
    """

    def __init__(self, network: torch.nn.Module, kept: list[str]) -> None:
        super().__init__()
        self.network, self.kept = network, kept
        self.names: list[str] = []

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the network; outputs of rank 4 are transposed, the rest is as it is."""
        found = list(named_outputs(self.network(image.permute(0, 3, 1, 2))))
        known = [name for name, _ in found]
        if wrong := [name for name in self.kept if name not in known]:
            raise protocol.RefusalError(
                f"--outputs: the network has no output {wrong[0]}; it has {', '.join(known)}"
            )
        found = [pair for pair in found if not self.kept or pair[0] in self.kept]
        self.names = [name for name, _ in found]
        return tuple(value.permute(0, 2, 3, 1) if value.dim() == 4 else value for _, value in found)


def named_outputs(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yields (name, tensor) of tensors, tuples, dictionaries and the results of transformers."""
    if isinstance(value, torch.Tensor):
        yield name or "output", value
    elif hasattr(value, "items"):
        for key, part in value.items():
            yield from named_outputs(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for position, part in enumerate(value):
            step = f"output_{position}" if len(value) > 1 else "output"
            yield from named_outputs(part, f"{name}.{position}" if name else step)
    elif value is not None:
        raise protocol.RefusalError(
            f"expected tensors, tuples or dictionaries from the network, got {type(value).__name__}"
        )


def layer_norm(
    value: torch.Tensor,
    normalized_shape: list[int],
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> torch.Tensor:
    """Computes a layer norm from means over its own axes.

    The converter's form averages over the batch too and multiplies single values, which leaves
    integer files little accuracy.
    """
    axes = tuple(range(-len(normalized_shape), 0))
    centred = value - value.mean(axes, keepdim=True)
    value = centred * torch.rsqrt((centred * centred).mean(axes, keepdim=True) + eps)
    value = value if weight is None else value * weight
    return value if bias is None else value + bias


@contextlib.contextmanager
def plain_layer_norms(network: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Yields the network with layer norms that the converter sees as plain operators."""
    if isinstance(network, torch.fx.GraphModule):
        network = copy.deepcopy(network)
        for node in network.graph.nodes:
            if node.target == torch.ops.aten.layer_norm.default:
                node.target = layer_norm
        network.recompile()
    original = torch.nn.functional.layer_norm
    torch.nn.functional.layer_norm = layer_norm
    try:
        yield network
    finally:
        torch.nn.functional.layer_norm = original


def load(request: dict[str, Any]) -> torch.nn.Module:
    """Returns the network of a request, in its inference form."""
    source = pathlib.Path(request["source"])
    if source.suffix == ".pt2":
        return _exported_program(source)
    network = _from_python_file(source, request["module"])
    if request["weights"]:
        _load_weights(network, pathlib.Path(request["weights"]))
    return network.eval()


def _exported_program(path: pathlib.Path) -> torch.nn.Module:
    try:
        return torch.export.load(str(path)).module()
    except Exception as error:
        raise protocol.RefusalError(
            f"{path}: torch.export cannot load it ({type(error).__name__}: {error}); save it with "
            f"torch.export.save of PyTorch {torch.__version__}"
        ) from error


def _from_python_file(path: pathlib.Path, name: str) -> torch.nn.Module:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    file = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(file)
    except ModuleNotFoundError as error:
        raise protocol.RefusalError(
            f"{path} imports {error.name}, which is not in the environment; add it with "
            f"--packages={error.name}"
        ) from error
    known = [key for key in vars(file) if not key.startswith("_")]
    if not hasattr(file, name):
        raise protocol.RefusalError(
            f"{path}: no {name!r} in it; it has {', '.join(known) or 'nothing'}"
        )
    network = getattr(file, name)
    if not isinstance(network, torch.nn.Module):
        try:
            network = network()
        except TypeError as error:
            raise protocol.RefusalError(
                f"{path}: {name} cannot be called without arguments ({error}); write a function "
                "that takes none and returns the network"
            ) from error
    if not isinstance(network, torch.nn.Module):
        raise protocol.RefusalError(
            f"{path}: expected an nn.Module from {name}, got {type(network).__name__}"
        )
    return network


def _load_weights(network: torch.nn.Module, path: pathlib.Path) -> None:
    state = _state(path)
    for key in _WRAPPERS:
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {str(key).removeprefix("module."): value for key, value in state.items()}
    tensors = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    try:
        network.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise protocol.RefusalError(
            f"{path}: the weights do not fit the network: {error}"
        ) from error


def _state(path: pathlib.Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        import safetensors.torch  # noqa: PLC0415 - few need it

        return safetensors.torch.load_file(str(path))
    try:
        state = torch.load(str(path), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise protocol.RefusalError(
            f"{path}: expected a dictionary of tensors, got a file that only unpickling code could "
            "read, which is refused; save network.state_dict() "
            f"({str(error).strip().splitlines()[0][:200] if str(error) else type(error).__name__})"
        ) from error
    if not isinstance(state, dict):
        raise protocol.RefusalError(
            f"{path}: expected a dictionary of tensors, got {type(state).__name__}; save "
            "network.state_dict()"
        )
    return state


def input_shape(network: torch.nn.Module, request: dict[str, Any]) -> tuple[int, ...]:
    """Returns (height, width, channels): of the flags, else of the exported program."""
    fixed = _exported_shape(network)
    size, channels = request["size"], request["channels"] or 3
    if fixed is None:
        if not size:
            raise protocol.RefusalError(
                "the size of the input is not known; give --size=height,width"
            )
        return (*size, channels)
    if len(fixed) != 4 or fixed[0] != 1:
        raise protocol.RefusalError(f"expected an input [1, channels, height, width], got {fixed}")
    stored = [value for value in fixed[2:] if isinstance(value, int)]
    if len(stored) == 2 and size and stored != list(size):
        raise protocol.RefusalError(
            f"--size: the program was exported for {stored[0]} x {stored[1]}, got {size[0]} x "
            f"{size[1]}; leave it out, or export the program again"
        )
    if len(stored) < 2 and not size:
        raise protocol.RefusalError("the exported program takes any size; give --size=height,width")
    return (*(stored if len(stored) == 2 else size), fixed[1])


def _exported_shape(network: torch.nn.Module) -> list[int | None] | None:
    """Returns the shape that an exported program takes, None in it for any length."""
    graph = getattr(network, "graph", None)
    if graph is None:
        return None
    inputs = [n.meta["val"] for n in graph.nodes if n.op == "placeholder" and "val" in n.meta]
    inputs = [value for value in inputs if isinstance(value, torch.Tensor)]
    if len(inputs) != 1:
        raise protocol.RefusalError(f"expected one input, got {len(inputs)}")
    return [size if isinstance(size, int) else None for size in inputs[0].shape]


def main() -> None:
    """Converts, waits for the inputs, writes what PyTorch computes from them."""
    request, folder = protocol.read_request()
    network = load(request)
    wrapped = ChannelsLast(network, request["outputs"])
    if not isinstance(network, torch.fx.GraphModule):
        wrapped.eval()
    sample = torch.zeros(1, *input_shape(network, request))
    with torch.no_grad():
        try:
            wrapped(sample)
        except protocol.RefusalError:
            raise
        except Exception as error:
            raise protocol.RefusalError(
                f"the network does not take [1, {sample.shape[3]}, {sample.shape[1]}, "
                f"{sample.shape[2]}] ({type(error).__name__}: {error})"
            ) from error
    names = list(wrapped.names)
    import litert_torch  # noqa: PLC0415 - takes seconds; the user's mistakes come first

    with plain_layer_norms(network) as plain:
        made = ChannelsLast(plain, request["outputs"])
        if not isinstance(network, torch.fx.GraphModule):
            made.eval()
        litert_torch.convert(made, (sample,)).export(str(folder / "model.tflite"))
    packages = ("torch", "litert-torch")
    versions = {name: importlib.metadata.version(name) for name in packages}
    protocol.write_result(folder, outputs=names, versions=versions)
    outputs = []
    with torch.no_grad():
        for image in protocol.wait_for_inputs(folder):
            found = wrapped(torch.from_numpy(np.ascontiguousarray(image)))
            outputs.append([value.numpy() for value in found])
    protocol.write_references(folder, outputs)


if __name__ == "__main__":
    protocol.run(main)
