"""LiteRT's web runtime, from npm into a cache folder: it is part of a page, never of this project.

The package has four builds of the same WebAssembly. The page chooses among those that it carries:

| build | needs |
|---|---|
| jspi | WebAssembly that can wait for a promise, and relaxed SIMD; the GPU with 8-bit files |
| threaded | relaxed SIMD, and a server that isolates the page by two headers |
| plain | relaxed SIMD |
| compat | nothing that a browser of 2023 lacks |
"""

import dataclasses
import gzip
import os
import pathlib
import re
import shutil
import subprocess
import tarfile

from deeplab_tf import atomic_file, child_process
from deeplab_tf.scratch import partial_folder, scratch_folder
from tflite_tools.manifest import sha256_of

VERSION = "2.5.3"
BUILDS = ("jspi", "threaded", "plain", "compat")
_PACKAGES = {
    "@litertjs/core": "a97660833e9e7e1063c95e12016718881240b14f7438728a2f62785e912d30fd",
    "@litertjs/wasm-utils": "ce2a1f8379c067be49e59752e5a7f40db6be09f6e497f0f11e59f17b515366a7",
}
"""sha256 of the packages of VERSION."""
_SECONDS = 300
_TYPED_ARRAYS = "var DATATYPES = Object.freeze(["
_MORE_TYPED_ARRAYS = f"""{_TYPED_ARRAYS}
  {{ dtype: "int8", typedArrayConstructor: Int8Array, elementType: ElementType.INT8 }},
  {{ dtype: "int64", typedArrayConstructor: BigInt64Array, elementType: ElementType.INT64 }},"""
"""The WebAssembly runs inputs and outputs of any type; the library knows only three of them."""
_EXPORTS = re.compile(r"^export \{(.*?)\};?\s*$", re.MULTILINE | re.DOTALL)
_IMPORTS = re.compile(r"^import .*$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class WebRuntime:
    """An unpacked runtime.

    Attributes:
        folder: of the cache.
    """

    folder: pathlib.Path

    def script(self) -> str:
        """Returns the library as one classic script that sets `self.liteRtRuntime`.

        It is changed in one place: tensors of int8 and int64 are accepted, too.

        Raises:
            RuntimeError: the package is not built as expected.
        """
        parts = []
        for name in ("wasm-utils", "core"):
            text = (self.folder / name / "dist" / "index.js").read_text(encoding="utf-8")
            text = re.sub(r"^//# sourceMappingURL=.*$", "", text, flags=re.MULTILINE)
            exports, is_core = _EXPORTS.findall(text), name == "core"
            counts = (len(exports), len(_IMPORTS.findall(text)), text.count(_TYPED_ARRAYS))
            if counts != (1, is_core, is_core):
                raise RuntimeError(
                    f"{self.folder}: expected @litertjs/{name} {VERSION} as npm has it; "
                    "remove the folder, so that it is fetched again"
                )
            text = text.replace(_TYPED_ARRAYS, _MORE_TYPED_ARRAYS)
            parts.append(_IMPORTS.sub("", _EXPORTS.sub("", text)))
        names = " ".join(exports[0].split())
        return "(() => {\n" + "\n".join(parts) + f"\nself.liteRtRuntime = {{ {names} }};\n}})();\n"

    def loader(self, build: str) -> str:
        """Returns the script that starts a build's WebAssembly.

        Args:
            build: one of BUILDS.
        """
        return self._file(build, ".js").read_text(encoding="utf-8")

    def wasm(self, build: str) -> bytes:
        """Returns the WebAssembly of a build.

        Args:
            build: one of BUILDS.
        """
        return self._file(build, ".wasm").read_bytes()

    def packed_wasm(self, build: str) -> bytes:
        """Returns the WebAssembly of a build, gzip; kept, because packing takes seconds.

        Args:
            build: one of BUILDS.
        """
        kept = self.folder / f"{build}.wasm.gz"
        if not kept.is_file():
            atomic_file.write_bytes(kept, gzip.compress(self.wasm(build), mtime=0))
        return kept.read_bytes()

    def _file(self, build: str, suffix: str) -> pathlib.Path:
        infix = "" if build == "plain" else f"_{build}"
        return self.folder / "core" / "wasm" / f"litert_wasm{infix}_internal{suffix}"


def default_cache() -> pathlib.Path:
    """Returns the folder for what is fetched: that of the user's caches."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "deeplab_tflite"


def web_runtime(cache: pathlib.Path | None = None) -> WebRuntime:
    """Returns the runtime of VERSION, fetched with npm if the cache lacks it.

    Args:
        cache: folder of the cache; None for the user's.

    Raises:
        RuntimeError: npm is missing or fails, or a package is not the expected one.
    """
    folder = (cache or default_cache()) / f"litertjs-{VERSION}"
    if folder.is_dir():
        return WebRuntime(folder)
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError(
            f"npm is missing: the page's web runtime, @litertjs/core {VERSION}, comes from there; "
            f"install Node.js 20 or newer, or copy {folder} from a machine that has it"
        )
    with scratch_folder("web-runtime") as temporary, partial_folder(folder) as whole:
        for package, sha256 in _PACKAGES.items():
            _fetch(npm, package, sha256=sha256, temporary=temporary, folder=whole)
    return WebRuntime(folder)


def _fetch(
    npm: str, package: str, *, sha256: str, temporary: pathlib.Path, folder: pathlib.Path
) -> None:
    try:
        done = subprocess.run(
            [npm, "pack", "--silent", f"{package}@{VERSION}", f"--pack-destination={temporary}"],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            preexec_fn=child_process.end_child_with_parent,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(
            f"npm pack {package}@{VERSION} took longer than {_SECONDS} s; is npm's registry "
            "reachable?"
        ) from error
    name = f"{package.removeprefix('@').replace('/', '-')}-{VERSION}.tgz"
    if done.returncode or not (temporary / name).is_file():
        lines = [
            line for line in (done.stderr or done.stdout).splitlines() if "npm notice" not in line
        ]
        raise RuntimeError(
            f"npm pack {package}@{VERSION} ended with status {done.returncode}: "
            + " | ".join(line.strip() for line in lines[:4] if line.strip())
        )
    found = sha256_of((temporary / name).read_bytes())
    if found != sha256:
        raise RuntimeError(
            f"{package} {VERSION}: expected sha256 {sha256[:12]}, got {found[:12]}; the registry "
            "serves another file"
        )
    unpacked = temporary / package.rpartition("/")[2]
    with tarfile.open(temporary / name) as archive:
        archive.extractall(unpacked, filter="data")
    shutil.copytree(unpacked / "package", folder / unpacked.name)
