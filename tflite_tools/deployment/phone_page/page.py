"""Writes the page: one file that holds everything, or a folder for a web server."""

import base64
import dataclasses
import gzip
import os
import pathlib

import jinja2
import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.data.images import read_image
from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.data.readers.synthetic import draw_scene
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.deployment.phone_page.description import model_values
from tflite_tools.deployment.phone_page.trial import TEMPLATES, our_mask, try_model
from tflite_tools.deployment.phone_page.web_runtime import VERSION, WebRuntime, web_runtime
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.runtime_shapes import with_known_shapes

MAX_MODELS = 4
PAGE = "index.html"
HEADERS = "_headers"
_WORKER_SCRIPTS = ("engine.js", "worker.js")
_ISOLATION = (
    "/*\n  Cross-Origin-Opener-Policy: same-origin\n  Cross-Origin-Embedder-Policy: require-corp\n"
)
"""Headers in the form that several static hosts read; with them browsers allow threads."""


@dataclasses.dataclass(frozen=True)
class PageOptions:
    """Input and output of `write_page`.

    Attributes:
        models: the files, compared in place if there are several.
        output: the page; None for the folder form.
        output_dir: folder of the folder form; None for one file.
        preprocessing: normalization of all models where the caller states it, or None.
        photo: image for a test on the phone, with our mask; None for none.
        fallback: whether the page carries the build for browsers without the newest WebAssembly.
        overwrite: replace existing files.
        cache: folder of the web runtime; None for the user's.
    """

    models: tuple[pathlib.Path, ...]
    output: pathlib.Path | None = None
    output_dir: pathlib.Path | None = None
    preprocessing: Preprocessing | None = None
    photo: pathlib.Path | None = None
    fallback: bool = True
    overwrite: bool = False
    cache: pathlib.Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.models) <= MAX_MODELS:
            raise ValueError(
                f"expected 1 to {MAX_MODELS} files, got {len(self.models)}; give --model=FILE or "
                "--models=FILE,FILE"
            )
        for number, path in enumerate(self.models):
            if path.resolve() in [other.resolve() for other in self.models[:number]]:
                raise ValueError(f"{path}: given twice; compare different files")
        if (self.output is None) == (self.output_dir is None):
            raise ValueError("expected one of --output=page.html and --output_dir=FOLDER")
        if self.output is not None and self.output.is_dir():
            raise ValueError(
                f"{self.output} is a folder; give --output=page.html, or --output_dir for the "
                "folder form"
            )
        target = self.output or (self.output_dir or pathlib.Path()) / PAGE
        if target.exists() and not self.overwrite:
            raise FileExistsError(f"{target} exists; give --overwrite or another name")
        folder = (self.output or self.output_dir or target).absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; create it, or give another output")
        if not os.access(folder, os.W_OK):
            raise PermissionError(f"{folder} cannot be written to; give another output")
        if self.photo is not None and not self.photo.is_file():
            raise FileNotFoundError(f"{self.photo}: no such image; check --photo")


@dataclasses.dataclass(frozen=True)
class WrittenPage:
    """What `write_page` wrote.

    Attributes:
        path: the page.
        size_bytes: of the page, in the folder form of all its files.
        agreements: by model, fraction of the pixels that the web runtime gives as our interpreter.
    """

    path: pathlib.Path
    size_bytes: int
    agreements: dict[str, float]


def write_page(options: PageOptions) -> WrittenPage:
    """Checks each file, tries it in the web runtime, and writes the page.

    Args:
        options: input and output.

    Raises:
        FileNotFoundError: no such model or photo.
        ValueError: a file that no page can show, for example one of unknown normalization.
        RuntimeError: npm or Node.js is missing, or the web runtime refuses a file.
    """
    contracts = _contracts(options)
    models = [
        model_values(contract, with_known_shapes(read_graph(contract.path)))
        for contract in contracts
    ]
    photo = draw_scene(0)[0] if options.photo is None else read_image(options.photo)
    runtime = web_runtime(options.cache)
    agreements, masks = {}, {}
    for contract, values in zip(contracts, models, strict=True):
        pixels, _ = place(photo, (contract.height, contract.width))
        mask = masks[contract.name] = our_mask(contract, pixels)
        agreements[contract.name] = try_model(
            contract, values, runtime=runtime, pixels=pixels, expected=mask
        )
    test = None if options.photo is None else _test_photo(options.photo, photo, masks=masks)
    page = _Page(models, test=test, runtime=runtime, paths=[c.path for c in contracts])
    if options.output is not None:
        path, size = options.output, page.write_file(options.output, fallback=options.fallback)
    else:
        assert options.output_dir is not None
        path, size = options.output_dir / PAGE, page.write_folder(options.output_dir)
    return WrittenPage(path, size, agreements)


def _contracts(options: PageOptions) -> list[ModelContract]:
    contracts: list[ModelContract] = []
    for path in options.models:
        contract = read_contract(path, options.preprocessing)
        _check_fixed_batch(contract)
        if contract.name in [other.name for other in contracts]:  # same stem in two folders
            contract = dataclasses.replace(contract, name=f"{path.parent.name}/{path.stem}")
        contracts.append(contract)
    return contracts


def _check_fixed_batch(contract: ModelContract) -> None:
    graph = read_graph(contract.path)
    signature = graph.tensors[graph.inputs[0]].shape_signature
    if -1 in signature:
        raise ValueError(
            f"{contract.path}: the web runtime needs a fixed batch of 1, got an input of "
            f"{list(signature)}; python -m tflite_tools.fix_size --model={contract.path} "
            f"--size={contract.height},{contract.width} --output={contract.path.stem}_fixed.tflite"
        )


def _test_photo(path: pathlib.Path, photo: np.ndarray, *, masks: dict[str, np.ndarray]) -> dict:
    """The photo's pixels and our masks, for a test on the phone."""
    return {
        "name": path.name,
        "height": photo.shape[0],
        "width": photo.shape[1],
        "pixels": _packed_text(photo.tobytes()),
        "masks": {name: _packed_text(mask.tobytes()) for name, mask in masks.items()},
    }


class _Page:
    """A page whose parts are embedded, or files beside it.

    Args:
        models: of `model_values`.
        test: photo and masks for a test, or None.
        runtime: the web runtime.
        paths: of the models.
    """

    def __init__(
        self,
        models: list[dict],
        *,
        test: dict | None,
        runtime: WebRuntime,
        paths: list[pathlib.Path],
    ) -> None:
        self._models, self._test = models, test
        self._runtime, self._paths = runtime, paths

    def write_file(self, path: pathlib.Path, *, fallback: bool) -> int:
        """Writes one file; returns its size in bytes.

        Args:
            path: of the page.
            fallback: whether to carry the compat build.
        """
        builds = ("jspi", "compat") if fallback else ("jspi",)
        packed = {"runtime.js": _packed(self._runtime.script().encode())}
        for build in builds:
            packed[f"{build}.js"] = _packed(self._runtime.loader(build).encode())
            packed[f"{build}.wasm"] = self._runtime.packed_wasm(build)
        for number, model in enumerate(self._paths):
            packed[f"model{number}.tflite"] = _packed(read_model_bytes(model))
        assets = {name: base64.b64encode(content).decode() for name, content in packed.items()}
        text = self._render(builds, assets=assets)
        atomic_file.write_text(path, text)
        return len(text.encode())

    def write_folder(self, folder: pathlib.Path) -> int:
        """Writes the page and its parts as files; returns their size in bytes.

        Args:
            folder: created if it is missing.
        """
        builds = ("threaded", "plain", "jspi", "compat")
        files = {"runtime.js": self._runtime.script().encode(), HEADERS: _ISOLATION.encode()}
        for build in builds:
            files[f"{build}.js"] = self._runtime.loader(build).encode()
            files[f"{build}.wasm"] = self._runtime.wasm(build)
        for number, model in enumerate(self._paths):
            files[f"model{number}.tflite"] = read_model_bytes(model)
        files[PAGE] = self._render(builds, assets={}).encode()  # last: it needs the others
        for name, content in files.items():
            atomic_file.write_bytes(folder / name, content)
        return sum(map(len, files.values()))

    def _render(self, builds: tuple[str, ...], *, assets: dict[str, str]) -> str:
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(TEMPLATES),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        worker = "\n".join((TEMPLATES / name).read_text() for name in _WORKER_SCRIPTS)
        return environment.get_template("phone.html.j2").render(
            title=", ".join(model["name"] for model in self._models),
            values={
                "models": self._models,
                "builds": builds,
                "version": VERSION,
                "test": self._test,
                "worker": worker,
                "form": "file" if assets else "folder",
            },
            assets=assets,
        )


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _packed_text(content: bytes) -> str:
    return base64.b64encode(_packed(content)).decode()
