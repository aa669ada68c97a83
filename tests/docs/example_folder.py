"""The folder that the documented examples name: files, photos, a picture."""

import json
import pathlib
import shutil

from PIL import Image

from deeplab_tf.data.readers.synthetic import draw_scene
from tests.paths import CAMVID


def fill(folder: pathlib.Path, names: tuple[str, ...]) -> None:
    """Writes photos, `street.jpg`, and the zoo's int8 file with its manifest under these names."""
    for name in names:
        for suffix in (".tflite", ".json"):
            shutil.copy(CAMVID / f"int8{suffix}", folder / f"{name}{suffix}")
    photos = folder / "photos"
    for kind in ("images", "labels"):
        (photos / kind).mkdir(parents=True)
    for seed in range(10):
        image, label = draw_scene(seed)
        Image.fromarray(image).save(photos / "images" / f"{seed}.png")
        Image.fromarray(label).save(photos / "labels" / f"{seed}.png")
    classes = json.loads((CAMVID / "labels.json").read_text())["names"]
    (photos / "classes.txt").write_text("\n".join(classes))
    Image.fromarray(draw_scene(0)[0]).save(folder / "street.jpg")
