"""The size of a download is that of the entry in a zip file."""

import zipfile

from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.download_size import download_bytes


def test_it_is_the_size_in_a_zip_file(tmp_path):
    path = CAMVID / "int8.tflite"
    with zipfile.ZipFile(tmp_path / "app.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "model.tflite")
        packed = archive.getinfo("model.tflite").compress_size
    # A zlib stream has six bytes more than the entry of a zip file.
    assert download_bytes(path) == packed + 6
    assert read_contract(path).download_bytes == packed + 6
    assert packed < 0.95 * path.stat().st_size


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "model.tflite"
    content = (CAMVID / "int8.tflite").read_bytes()
    path.write_bytes(content)
    before = download_bytes(path)
    path.write_bytes(content + bytes(100_000))
    assert before < download_bytes(path) < before + 1000
