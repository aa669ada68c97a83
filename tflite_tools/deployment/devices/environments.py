"""What a device needs, in a cache folder: made once, checked, and never half there."""

import contextlib
import fcntl
import pathlib
from collections.abc import Callable, Iterator

from absl import logging

from deeplab_tf.scratch import partial_folder

_RECIPE = "recipe.txt"


def environment(
    folder: pathlib.Path,
    recipe: str,
    *,
    make: Callable[[pathlib.Path], None],
    works: Callable[[pathlib.Path], object],
) -> pathlib.Path:
    """Returns a folder that was made by a recipe; it is made if missing or of another recipe.

    Args:
        folder: final name.
        recipe: all that decides its content, such as versions; kept in the folder.
        make: fills an empty folder.
        works: raises an error if a filled folder does not work; called once, before it gets its
            final name.

    Raises:
        RuntimeError: it cannot be made, or does not work; nothing is left.
    """
    with _one_at_a_time(folder):
        if not _made_by(folder, recipe):
            logging.info("%s: is made, once", folder)
            with partial_folder(folder) as partial:
                make(partial)
                works(partial)
                (partial / _RECIPE).write_text(recipe)
    return folder


def _made_by(folder: pathlib.Path, recipe: str) -> bool:
    kept = folder / _RECIPE
    return kept.is_file() and kept.read_text() == recipe


@contextlib.contextmanager
def _one_at_a_time(folder: pathlib.Path) -> Iterator[None]:
    """Waits for another command that makes the same folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{folder.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
