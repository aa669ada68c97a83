"""What is fuzzed: parsers of files of strangers, each a function of the bytes of a file.

A parser may raise ValueError or OSError (a command makes one line of them). Anything else is a
fault.
"""

import atheris

with atheris.instrument_imports(include=["deeplab_tf", "tflite_tools", "export"]):
    import contextlib
    import dataclasses
    import json
    import pathlib
    import random
    import shutil
    from collections.abc import Callable

    import numpy as np
    from PIL import Image

    from deeplab_tf import bounded_file
    from deeplab_tf.data.convert.conversion import Request, convert
    from deeplab_tf.data.images import FORMATS, read_image, read_mask, read_upright
    from deeplab_tf.data.label_list import read_label_list
    from deeplab_tf.data.lidar.sensor import read_sensor
    from deeplab_tf.data.readers.folder import read_classes
    from deeplab_tf.graph.stock_layers import foreign_part
    from deeplab_tf.runs.config import read_config
    from export.conversion.keras3_file import keras2_configuration
    from export.frameworks.keras3_file import _as_stock
    from tests.hostile import files
    from tests.paths import CAMVID, ROOT
    from tests.tflite_tools.one_convolution import write_brightest_channel
    from tflite_tools.contract import read_contract
    from tflite_tools.deployment.add_metadata import AddOptions, add_metadata
    from tflite_tools.deployment.client_rules import Client, check_file
    from tflite_tools.deployment.phone_result import read_phone_result
    from tflite_tools.deployment.targets.registry import check_target
    from tflite_tools.description.outputs import describe_outputs
    from tflite_tools.flatbuffer.graph import read_checked_graph
    from tflite_tools.flatbuffer.graph_checks import has_unknown_shapes
    from tflite_tools.manifest import read_manifest
    from tflite_tools.metadata import packing
    from tflite_tools.runtime.memory import needed_bytes_of

SIZE = (24, 32)
STRANGE = (
    *(None, [], {}, "", "x", True, -1, 0, 0.5, 1e308, float("nan"), float("inf"), 2**31, 2**63),
    *(10**40, "\0", "\ud800", [[1]], {"a": 1}, [None], [float("nan")] * 3, "a\nb", "x" * 70_000),
)
USER_ERRORS = (ValueError, OSError)


@dataclasses.dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        run: parses the bytes of a file in a folder of its own.
        seeds: writes files into a folder.
        is_json: whether values of the document are mutated, not only its bytes.
    """

    run: Callable[[bytes, pathlib.Path], None]
    seeds: Callable[[pathlib.Path], None]
    is_json: bool = False


def _graph(content: bytes, folder: pathlib.Path) -> None:
    path = folder / "m.tflite"
    path.write_bytes(content)
    graph = read_checked_graph(path)
    with contextlib.suppress(*USER_ERRORS):
        packing.read_with_labels(path)
    needed_bytes_of(path)
    for target in ("edgetpu", "ethosu", "gpu", "nnapi"):
        with contextlib.suppress(*USER_ERRORS):
            check_target(graph, target)
    for client in Client:
        with contextlib.suppress(*USER_ERRORS):
            check_file(path, client)
    if has_unknown_shapes(graph):
        return  # it would be run, in a child with a deadline
    contract = read_contract(path)
    describe_outputs(graph, (contract.height, contract.width))


def _graph_seeds(folder: pathlib.Path) -> None:
    files.quantized(folder / "quantized.tflite")
    files.chain(folder / "chain.tflite", 3)
    write_brightest_channel(folder / "float.tflite", SIZE)
    labels = folder.parent / "labels.txt"
    labels.write_text("road\nsky\ncar\n")
    with contextlib.suppress(ValueError):
        add_metadata(
            AddOptions(folder / "quantized.tflite", folder / "metadata.tflite", labels=labels)
        )


def _manifest(content: bytes, folder: pathlib.Path) -> None:
    (folder / "int8.json").write_bytes(content)
    manifest = read_manifest(folder / "int8.tflite")
    assert manifest is not None
    manifest.to_json()


def _manifest_seeds(folder: pathlib.Path) -> None:
    for path in (ROOT / "zoo").glob("*/*int8.json"):
        shutil.copy(path, folder / f"{path.parent.name}-{path.name}")


def _run_config(content: bytes, folder: pathlib.Path) -> None:
    (folder / "config.json").write_bytes(content)
    read_config(folder).to_json()


def _run_config_seeds(folder: pathlib.Path) -> None:
    for path in (ROOT / "zoo").glob("*/config.json"):
        shutil.copy(path, folder / f"{path.parent.name}.json")


def _keras_config(content: bytes, folder: pathlib.Path) -> None:
    del folder
    config = bounded_file.parse_json(content.decode(errors="replace"))
    if not isinstance(config, dict):
        return
    foreign_part(config)
    with contextlib.suppress(ValueError):
        keras2_configuration(config)
    foreign_part(_as_stock(config))


def _keras_config_seeds(folder: pathlib.Path) -> None:
    layer = {
        "module": "keras.layers",
        "class_name": "Conv2D",
        "config": {
            "name": "conv",
            "filters": 3,
            "kernel_size": [3, 3],
            "activation": "relu",
            "dtype": {
                "module": "keras",
                "class_name": "DTypePolicy",
                "config": {"name": "float32"},
            },
            "kernel_initializer": {
                "module": "keras.initializers",
                "class_name": "GlorotUniform",
                "config": {"seed": None},
            },
        },
        "registered_name": None,
        "name": "conv",
        "inbound_nodes": [
            {
                "args": [
                    {
                        "class_name": "__keras_tensor__",
                        "config": {"keras_history": ["image", 0, 0], "shape": [None, 8, 8, 3]},
                    }
                ],
                "kwargs": {"training": False},
            }
        ],
    }
    image = {
        "class_name": "InputLayer",
        "config": {"batch_shape": [None, 8, 8, 3]},
        "name": "image",
    }
    network = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": "net",
            "layers": [image, layer],
            "input_layers": ["image", 0, 0],
            "output_layers": [["conv", 0, 0]],
        },
    }
    (folder / "functional.json").write_text(json.dumps(network))
    sequential = {"class_name": "Sequential", "config": {"name": "s", "layers": [image, layer]}}
    (folder / "sequential.json").write_text(json.dumps(sequential))


_LABEL_FILES = {
    "coco": "a.json",
    "labelme": "a.json",
    "cvat": "a.xml",
    "yolo": "data.yaml",
    "supervisely": "ds/ann/a.png.json",
    "roboflow": "train/_classes.csv",
    "color_masks": "labelmap.txt",
    "yolo lines": "labels/a.txt",
}


def _annotations(content: bytes, folder: pathlib.Path) -> None:
    if not content:
        return
    form = list(_LABEL_FILES)[content[0] % len(_LABEL_FILES)]
    path = folder / form / _LABEL_FILES[form]
    if not path.parent.is_dir():
        _photos(form, folder / form)
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[1:])
    request = Request(
        folder / form,
        folder / "out",
        format=form.partition(" ")[0],
        validation_share=0.5,
        skip_faulty=True,
        fill_boxes=True,
    )
    try:
        convert(request)
    finally:
        shutil.rmtree(folder / "out", ignore_errors=True)


def _photos(form: str, folder: pathlib.Path) -> None:
    """Writes what lies beside the file of a format."""
    places = {
        "supervisely": "ds/img",
        "roboflow": "train",
        "yolo": "images",
        "yolo lines": "images",
        "color_masks": "images",
    }
    photos = folder / places.get(form, ".")
    photos.mkdir(parents=True)
    for name in "ab":
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(photos / f"{name}.png")
        if form in ("roboflow", "color_masks"):
            mask = folder / ("train" if form == "roboflow" else "labels") / f"{name}_mask.png"
            mask.parent.mkdir(exist_ok=True)
            form_of_mask = "L" if form == "roboflow" else "RGB"
            Image.new(form_of_mask, SIZE[::-1]).save(mask)
    if form == "supervisely":
        (folder / "meta.json").write_text('{"classes": [{"title": "road", "color": "#ff0000"}]}')
        (folder / "ds" / "ann").mkdir()
        size = {"height": SIZE[0], "width": SIZE[1]}
        other = json.dumps({"size": size, "objects": []})
        (folder / "ds" / "ann" / "b.png.json").write_text(other)
    if form == "yolo lines":
        (folder / "data.yaml").write_text("names: [road, sky]\n")
    if form == "yolo":
        (folder / "labels").mkdir()
        (folder / "labels" / "a.txt").write_text("0 0.1 0.1 0.5 0.1 0.5 0.5\n")


def _annotation_seeds(folder: pathlib.Path) -> None:
    box = [2, 2, 9, 2, 9, 9, 2, 9]
    size = {"height": SIZE[0], "width": SIZE[1]}
    outlines = (
        [box],
        {"size": list(SIZE), "counts": [10, 758]},
        {"size": list(SIZE), "counts": "oh0"},
    )
    images = [{"id": n, "file_name": f"{name}.png", **size} for n, name in enumerate("ab")]
    documents = {
        "coco": {
            "images": images,
            "categories": [{"id": 1, "name": "road"}],
            "annotations": [
                {"id": n, "image_id": 0, "category_id": 1, "segmentation": one, "bbox": box[:4]}
                for n, one in enumerate(outlines)
            ],
        },
        "labelme": {
            "version": "5",
            "imagePath": "a.png",
            "imageData": None,
            "imageHeight": SIZE[0],
            "imageWidth": SIZE[1],
            "shapes": [
                {
                    "label": kind,
                    "points": [[2, 2], [9, 9], [3, 8]],
                    "shape_type": kind,
                    "mask": "iVBO",
                }
                for kind in ("polygon", "rectangle", "circle", "mask")
            ],
        },
        "supervisely": {
            "size": size,
            "objects": [
                {
                    "classTitle": "road",
                    "geometryType": kind,
                    "points": {"exterior": [[2, 2], [9, 9], [3, 8]], "interior": []},
                    "bitmap": {"origin": [1, 1], "data": "eJw="},
                }
                for kind in ("polygon", "rectangle", "bitmap")
            ],
        },
    }
    texts = {form: json.dumps(document) for form, document in documents.items()}
    texts["cvat"] = (
        "<annotations><meta><task><labels><label><name>road</name><color>#ff0000</color></label>"
        '</labels></task></meta><image id="0" name="a.png" width="32" height="24">'
        '<polygon label="road" points="2,2;9,2;9,9" z_order="1"/>'
        '<mask label="road" left="1" top="1" width="2" height="2" rle="1,2,1"/>'
        '<ellipse label="road" cx="3" cy="3" rx="2" ry="2" rotation="30"/>'
        '<box label="road" xtl="1" ytl="1" xbr="5" ybr="5" rotation="30"/></image>'
        '<image id="1" name="b.png" width="32" height="24"/></annotations>'
    )
    texts["yolo"] = "path: x\ntrain: images\nnames:\n  0: road\n  1: sky\n"
    texts["roboflow"] = "Pixel Value, Class\n0, background\n1, road\n"
    texts["color_masks"] = "# label:color\nbackground:0,0,0::\nroad:1,2,3::\n"
    texts["yolo lines"] = "0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.5 0.5 0.2 0.2\n"
    for number, form in enumerate(_LABEL_FILES):
        (folder / form.replace(" ", "-")).write_bytes(bytes([number]) + texts[form].encode())


def _lists(content: bytes, folder: pathlib.Path) -> None:
    for name in ("labels.txt", "labels.json"):
        (folder / name).write_bytes(content)
        with contextlib.suppress(*USER_ERRORS):
            read_label_list(folder / name)
    with contextlib.suppress(*USER_ERRORS):
        read_classes(folder / "labels.txt")
    with contextlib.suppress(*USER_ERRORS):
        read_sensor(folder / "labels.json")


def _list_seeds(folder: pathlib.Path) -> None:
    (folder / "a.txt").write_text("road 1 2 3\nsky 4 5 6\n")
    (folder / "b.txt").write_text("road\nsky\n\n")
    shutil.copy(CAMVID / "labels.json", folder / "c.json")


def _phone(content: bytes, folder: pathlib.Path) -> None:
    (folder / "result.json").write_bytes(content)
    read_phone_result(folder / "result.json")


def _phone_seeds(folder: pathlib.Path) -> None:
    from tests.phone_results import packed  # noqa: PLC0415

    run = {
        "accelerator": "gpu",
        "on_gpu": "full",
        "build": "jspi",
        "threads": 2,
        "mask": packed(np.zeros((4, 8), np.uint8)),
        "latency_ms": {"median": 1.0, "p90": 2.0, "runs": [1.0]},
    }
    entry = {
        "file": "a.tflite",
        "sha256": "0",
        "height": 4,
        "width": 8,
        "mean": [127.5] * 3,
        "std": [127.5] * 3,
        "pixels": packed(np.zeros((4, 8, 3), np.uint8)),
        "runs": [run],
    }
    document = {"kind": "phone_result", "format": 1, "photo": "a", "models": [entry]}
    document["device"] = {"name": "", "browser": "b"}
    (folder / "a.json").write_text(json.dumps(document))


def _pictures(content: bytes, folder: pathlib.Path) -> None:
    path = folder / "a.png"
    path.write_bytes(content)
    for read in (read_image, read_upright, read_mask):
        with contextlib.suppress(*USER_ERRORS):
            read(path)


def _picture_seeds(folder: pathlib.Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8))
    for form in FORMATS:
        picture.save(folder / form.lower(), form, exif=exif)
    picture.convert("P").save(folder / "palette", "PNG")
    picture.convert("L").save(folder / "gray", "PNG")


TARGETS = {
    "graph": Target(_graph, _graph_seeds),
    "manifest": Target(_manifest, _manifest_seeds, is_json=True),
    "run-config": Target(_run_config, _run_config_seeds, is_json=True),
    "keras-config": Target(_keras_config, _keras_config_seeds, is_json=True),
    "annotations": Target(_annotations, _annotation_seeds, is_json=True),
    "lists": Target(_lists, _list_seeds, is_json=True),
    "phone-result": Target(_phone, _phone_seeds, is_json=True),
    "pictures": Target(_pictures, _picture_seeds),
}


def mutated_json(content: bytes, generator: random.Random) -> bytes | None:
    """Returns a JSON document with one value replaced, repeated or taken out; None if it is none.

    Args:
        content: the document, perhaps behind one byte that chooses a format.
        generator: of random numbers.
    """
    start = content.find(b"{")
    if start not in (0, 1):
        return None
    try:
        document = json.loads(content[start:])
    except (ValueError, RecursionError):
        return None
    places = [(None, None)]
    waiting = [document]
    while waiting and len(places) < 3000:
        one = waiting.pop()
        keys = (
            list(one) if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        )
        places += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    container, key = generator.choice(places)
    if container is None:
        return content[:start] + json.dumps(generator.choice(STRANGE)).encode()
    action = generator.randrange(8)
    if action == 0:
        del container[key]
    elif action == 1 and isinstance(container, list):
        container.insert(key, container[key])
    elif action == 2:
        other, other_key = generator.choice(places)
        container[key] = json.loads(json.dumps(document if other is None else other[other_key]))
    else:
        container[key] = generator.choice(STRANGE)
    return content[:start] + json.dumps(document).encode()
