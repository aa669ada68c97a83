"""Label files in every format, derived from label maps: one region per connected part of a class.

The outlines come from contourpy and the run lengths from pycocotools, so that nothing of the
readers under test is used.
"""

import base64
import dataclasses
import io
import itertools
import json
import pathlib
import zlib
from xml.etree import ElementTree

import contourpy
import numpy as np
import yaml
from PIL import Image
from pycocotools import mask as coco_mask
from scipy import ndimage

IGNORED = 255


@dataclasses.dataclass(frozen=True)
class Scene:
    """A photo with its label map, uint8 [height, width], 255 where nothing is labelled."""

    stem: str
    image: np.ndarray
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Part:
    """A connected part of one class, bool [height, width], and its outlines."""

    number: int
    inside: np.ndarray

    def outlines(self) -> list[tuple[np.ndarray, list[np.ndarray]]]:
        """(outline, holes) of each piece, float [points, 2] of (x, y); pixel 0 covers [0, 1)."""
        padded = np.pad(self.inside.astype(float), 1)
        generator = contourpy.contour_generator(
            z=padded, fill_type=contourpy.FillType.OuterOffset, line_type="Separate"
        )
        points, offsets = generator.filled(0.5, 2.0)
        pieces = []
        for piece, starts in zip(points, offsets, strict=True):
            rings = [piece[a:b] - 0.5 for a, b in itertools.pairwise(starts)]
            pieces.append((rings[0], rings[1:]))
        return pieces

    def filled_area(self) -> int:
        """Pixels that its outline encloses, holes included."""
        return int(ndimage.binary_fill_holes(self.inside).sum())


def parts_of(label: np.ndarray) -> list[Part]:
    """All parts, the one that encloses most first: later ones lie over it."""
    parts = []
    for number in np.unique(label[label != IGNORED]).tolist():
        numbered, count = ndimage.label(label == number)
        parts += [Part(number, numbered == index) for index in range(1, count + 1)]
    return sorted(parts, key=lambda part: -part.filled_area())


def write_photo(scene: Scene, path: pathlib.Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.image).save(path, **options)


def write_coco(scenes, names, folder: pathlib.Path, *, runs=False, category_ids=None) -> None:
    """annotations.json and images/; outlines, or run lengths of pycocotools."""
    category_ids = category_ids or list(range(1, len(names) + 1))
    document = {
        "images": [],
        "annotations": [],
        "categories": [
            {"id": i, "name": name} for i, name in zip(category_ids, names, strict=True)
        ],
    }
    for number, scene in enumerate(scenes, 1):
        write_photo(scene, folder / "images" / f"{scene.stem}.png")
        height, width = scene.label.shape
        document["images"].append(
            {"id": number, "file_name": f"{scene.stem}.png", "height": height, "width": width}
        )
        for part in parts_of(scene.label):
            if runs:
                code = coco_mask.encode(np.asfortranarray(part.inside, np.uint8))
                segmentation = {"size": code["size"], "counts": code["counts"].decode()}
            else:
                segmentation = [ring.ravel().tolist() for ring, _ in part.outlines()]
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": category_ids[part.number],
                    "segmentation": segmentation,
                    "iscrowd": int(runs),
                }
            )
    (folder / "annotations.json").write_text(json.dumps(document))


def write_yolo(scenes, names, folder: pathlib.Path, split="train") -> None:
    """data.yaml, images/<split>/ and labels/<split>/."""
    (folder / "labels" / split).mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        write_photo(scene, folder / "images" / split / f"{scene.stem}.png")
        size = np.array(scene.label.shape[::-1])
        lines = [
            f"{part.number} {' '.join(f'{value:.6f}' for value in (ring / size).ravel())}\n"
            for part in parts_of(scene.label)
            for ring, _ in part.outlines()
        ]
        (folder / "labels" / split / f"{scene.stem}.txt").write_text("".join(lines))
    configuration = {"path": "/somewhere/else", "names": dict(enumerate(names))}
    configuration |= {name: f"images/{name}" for name in ("train", "val")}
    (folder / "data.yaml").write_text(yaml.safe_dump(configuration))


def write_labelme(scenes, names, folder: pathlib.Path, *, masks=False, embedded=False) -> None:
    """A JSON file beside each photo; polygons, or LabelMe's masks."""
    folder.mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        shapes = []
        for part in parts_of(scene.label):
            if masks:
                rows, columns = np.nonzero(part.inside)
                box = [columns.min(), rows.min(), columns.max(), rows.max()]
                left, top, right, bottom = map(int, box)
                cut = part.inside[top : bottom + 1, left : right + 1]
                shape = {"shape_type": "mask", "points": [[left, top], [right, bottom]]}
                shapes.append(shape | {"label": names[part.number], "mask": _png(cut)})
                continue
            for ring, _ in part.outlines():
                shapes.append(
                    {
                        "shape_type": "polygon",
                        "points": ring.tolist(),
                        "label": names[part.number],
                    }
                )
        content = None
        if embedded:
            stream = io.BytesIO()
            Image.fromarray(scene.image).save(stream, "PNG")
            content = base64.b64encode(stream.getvalue()).decode()
        else:
            write_photo(scene, folder / f"{scene.stem}.png")
        height, width = scene.label.shape
        document = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"..\\photos\\{scene.stem}.png",
            "imageData": content,
            "imageHeight": height,
            "imageWidth": width,
        }
        (folder / f"{scene.stem}.json").write_text(json.dumps(document))


def write_cvat(scenes, names, folder: pathlib.Path, *, masks=False) -> None:
    """annotations.xml and images/; polygons, or masks with run lengths along the rows."""
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(
        ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels"
    )
    for number, name in enumerate(names):
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = name
        ElementTree.SubElement(label, "color").text = f"#{number:02x}50ff"
    for number, scene in enumerate(scenes):
        write_photo(scene, folder / "images" / f"{scene.stem}.png")
        height, width = scene.label.shape
        image = ElementTree.SubElement(
            root,
            "image",
            {
                "id": str(number),
                "name": f"{scene.stem}.png",
                "width": str(width),
                "height": str(height),
            },
        )
        for order, part in enumerate(parts_of(scene.label)):
            common = {"label": names[part.number], "z_order": str(order)}
            if masks:
                rows, columns = np.nonzero(part.inside)
                cut = part.inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                values = np.concatenate([[0], cut.ravel(), [2]])
                starts = np.flatnonzero(np.diff(values.astype(int)))
                runs = np.diff([0, *starts])
                assert runs.sum() == cut.size
                box = {
                    "left": str(columns.min()),
                    "top": str(rows.min()),
                    "height": str(cut.shape[0]),
                    "width": str(cut.shape[1]),
                    "rle": ", ".join(map(str, runs)),
                }
                ElementTree.SubElement(image, "mask", common | box)
                continue
            for ring, _ in part.outlines():
                points = ";".join(f"{x:.2f},{y:.2f}" for x, y in ring)
                ElementTree.SubElement(image, "polygon", common | {"points": points})
        # the order of the file is not that of z_order
        image[:] = list(image)[::-1]
    ElementTree.ElementTree(root).write(folder / "annotations.xml")


def write_supervisely(scenes, names, folder: pathlib.Path) -> None:
    """meta.json, ds0/ann and ds0/img; bitmaps."""
    (folder / "ds0" / "ann").mkdir(parents=True, exist_ok=True)
    classes = [
        {"title": name, "shape": "any", "color": f"#10{number:02x}ff"}
        for number, name in enumerate(names)
    ]
    (folder / "meta.json").write_text(json.dumps({"classes": classes, "tags": []}))
    for scene in scenes:
        write_photo(scene, folder / "ds0" / "img" / f"{scene.stem}.png")
        objects = []
        for part in parts_of(scene.label):
            one = {"classTitle": names[part.number], "geometryType": "bitmap"}
            rows, columns = np.nonzero(part.inside)
            cut = part.inside[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            packed = zlib.compress(base64.b64decode(_png(cut)))
            origin = [int(columns.min()), int(rows.min())]
            bitmap = {"origin": origin, "data": base64.b64encode(packed).decode()}
            objects.append(one | {"bitmap": bitmap})
        height, width = scene.label.shape
        document = {"size": {"height": height, "width": width}, "objects": objects, "tags": []}
        (folder / "ds0" / "ann" / f"{scene.stem}.png.json").write_text(json.dumps(document))


def _png(inside: np.ndarray) -> str:
    stream = io.BytesIO()
    Image.fromarray(inside).save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def write_color_masks(scenes, colors, folder: pathlib.Path, ending=".png", **options) -> None:
    """images/ and masks/ in the given colours; ignored pixels are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(colors)] = colors
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for scene in scenes:
        write_photo(scene, folder / "images" / f"{scene.stem}.png")
        Image.fromarray(table[scene.label]).save(
            folder / "masks" / f"{scene.stem}{ending}", **options
        )
