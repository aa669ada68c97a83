"""Where things are; imports nothing heavy, so that child processes may import it too."""

import pathlib

ROOT = pathlib.Path(__file__).resolve().parents[1]
ZOO = ROOT / "zoo"
CAMVID = ZOO / "camvid_deeplab_mobilenet_v2"
