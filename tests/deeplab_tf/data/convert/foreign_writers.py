"""Writes a folder's masks in the formats of other programs, with these programs' own code.

    python -m tests.deeplab_tf.data.convert.foreign_writers FOLDER OUTPUT labelme datumaro ...

Runs in an environment of its own, which has those packages beside NumPy, Pillow, SciPy, contourpy,
pycocotools and PyYAML. FOLDER holds images/, labels/ (class ids, 255 = nothing) and classes.txt.
Made the figures in docs/measurements/data.md and the files in tests/deeplab_tf/data/convert/files.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

from tests.deeplab_tf.data.convert.written import Scene, parts_of


def read_folder(folder: pathlib.Path) -> tuple[list[Scene], list[str]]:
    names = [line.strip() for line in (folder / "classes.txt").read_text().splitlines()]
    scenes = []
    for path in sorted((folder / "images").iterdir()):
        image = np.asarray(Image.open(path).convert("RGB"))
        label = np.asarray(Image.open(folder / "labels" / f"{path.stem}.png"))
        scenes.append(Scene(path.stem, image, label))
    return scenes, names


def _photos(scenes, folder: pathlib.Path) -> list[pathlib.Path]:
    folder.mkdir(parents=True)
    paths = [folder / f"{scene.stem}.png" for scene in scenes]
    for scene, path in zip(scenes, paths, strict=True):
        Image.fromarray(scene.image).save(path)
    return paths


def labelme(scenes, names, output: pathlib.Path) -> None:
    """LabelMe's writer, once with polygons and once with masks."""
    from labelme import _label_file  # noqa: PLC0415 - in an environment of its own

    for kind in ("polygon", "mask"):
        folder = output / f"labelme_{kind}"
        for scene, path in zip(scenes, _photos(scenes, folder), strict=True):
            shapes = []
            for part in parts_of(scene.label):
                common = {"label": names[part.number], "shape_type": kind, "flags": {}}
                common |= {"group_id": None, "description": "", "mask": None, "other_data": {}}
                if kind == "polygon":
                    shapes += [common | {"points": r.tolist()} for r, _ in part.outlines()]
                    continue
                rows, columns = np.nonzero(part.inside)
                left, top, right, bottom = map(
                    int, (columns.min(), rows.min(), columns.max(), rows.max())
                )
                cut = part.inside[top : bottom + 1, left : right + 1]
                encoded = _label_file.utils.img_arr_to_b64(cut.astype(np.uint8))
                shapes.append(common | {"points": [[left, top], [right, bottom]], "mask": encoded})
            _label_file.LabelFile().save(
                str(path.with_suffix(".json")),
                shapes=shapes,
                image_path=path.name,
                image_height=scene.label.shape[0],
                image_width=scene.label.shape[1],
                flags={},
            )


def supervision(scenes, names, output: pathlib.Path) -> None:
    """Roboflow's library: COCO and YOLO."""
    import supervision  # noqa: PLC0415 - in an environment of its own

    paths = _photos(scenes, output / "supervision_photos")
    annotations = {}
    for scene, path in zip(scenes, paths, strict=True):
        parts = parts_of(scene.label)
        masks = np.stack([part.inside for part in parts])
        annotations[str(path)] = supervision.Detections(
            xyxy=supervision.mask_to_xyxy(masks).astype(float),
            mask=masks,
            class_id=np.array([part.number for part in parts]),
        )
    data = supervision.DetectionDataset(list(names), [str(path) for path in paths], annotations)
    coco = output / "supervision_coco"
    data.as_coco(str(coco / "images"), str(coco / "annotations.json"))
    yolo = output / "supervision_yolo"
    data.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))


def datumaro(scenes, names, output: pathlib.Path) -> None:
    """Datumaro, by CVAT's authors: CVAT for images, COCO, VOC's colour masks and labelmap.txt."""
    import datumaro  # noqa: PLC0415 - in an environment of its own

    for kind in ("polygon", "mask"):
        items = []
        for scene in scenes:
            annotations = []
            for order, part in enumerate(parts_of(scene.label)):
                common = {"label": part.number, "z_order": order, "id": order, "group": order + 1}
                if kind == "mask":
                    annotations.append(datumaro.Mask(part.inside, **common))
                    continue
                for ring, _ in part.outlines():
                    annotations.append(datumaro.Polygon(ring.ravel().tolist(), **common))
            media = datumaro.Image.from_numpy(scene.image[:, :, ::-1].copy(), ext=".png")
            items.append(datumaro.DatasetItem(scene.stem, media=media, annotations=annotations))
        data = datumaro.Dataset.from_iterable(items, categories=list(names))
        for name in ("cvat", "coco_instances") + (("voc_segmentation",) if kind == "mask" else ()):
            data.export(str(output / f"datumaro_{name}_{kind}"), name, save_media=True)


def supervisely(scenes, names, output: pathlib.Path) -> None:
    """Supervisely's SDK: bitmaps and polygons with holes, made from bitmaps by the SDK itself."""
    import supervisely  # noqa: PLC0415 - in an environment of its own

    for kind in ("bitmap", "polygon"):
        shape = supervisely.Bitmap if kind == "bitmap" else supervisely.Polygon
        classes = [supervisely.ObjClass(name, shape) for name in names]
        project = supervisely.Project(
            str(output / f"supervisely_{kind}"), supervisely.OpenMode.CREATE
        )
        project.set_meta(supervisely.ProjectMeta(obj_classes=classes))
        data = project.create_dataset("ds0")
        for scene in scenes:
            labels = []
            for part in parts_of(scene.label):
                figure = supervisely.Bitmap(part.inside)
                figures = [figure]
                if kind == "polygon":
                    figures = figure.to_contours()
                labels += [supervisely.Label(one, classes[part.number]) for one in figures]
            annotation = supervisely.Annotation(scene.label.shape, labels)
            data.add_item_np(f"{scene.stem}.png", scene.image, ann=annotation)


if __name__ == "__main__":
    source, target = map(pathlib.Path, sys.argv[1:3])
    target.mkdir(exist_ok=True)
    for writer in sys.argv[3:]:
        globals()[writer](*read_folder(source), target)
