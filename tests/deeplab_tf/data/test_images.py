"""Every kind of file that a folder of photos and masks can hold."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.images import MAX_PIXELS, read_image, read_mask


def _png(path, width, height, bits, rows: bytes):
    """A grayscale PNG written by hand, straight from the specification."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    return path


def test_image_is_rgb_height_first(tmp_path, write_image, photo):
    pixels = photo(5, 9)
    read = read_image(write_image(tmp_path / "a.png", pixels))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


def test_grayscale_is_repeated(tmp_path, write_image, photo):
    gray = photo()[..., 0]
    read = read_image(write_image(tmp_path / "a.png", gray))
    np.testing.assert_array_equal(read, np.dstack([gray, gray, gray]))


def test_sixteen_bit_gray_keeps_its_upper_byte(tmp_path, write_image):
    values = np.array([[0, 255, 256, 0x1234, 0xFFFF]], np.uint16)
    read = read_image(write_image(tmp_path / "a.png", values))
    assert read[0].tolist() == [[v] * 3 for v in (0, 0, 1, 0x12, 0xFF)]


def test_alpha_is_dropped(tmp_path, write_image, photo):
    pixels = np.dstack([photo(), photo(seed=1)[..., 0]])
    read = read_image(write_image(tmp_path / "a.png", pixels))
    np.testing.assert_array_equal(read, pixels[..., :3])


def test_palette_image_is_converted(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([1, 0, 1])
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").tolist() == [[[40, 50, 60], [10, 20, 30], [40, 50, 60]]]


def test_palette_image_with_transparency_reads_without_a_warning(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([1, 0])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")
    assert read_image(tmp_path / "a.png").tolist() == [[[40, 50, 60], [10, 20, 30]]]


def test_one_pixel(tmp_path, write_image):
    read = read_image(write_image(tmp_path / "a.bmp", np.array([[[3, 1, 2]]], np.uint8)))
    assert read.tolist() == [[[3, 1, 2]]]


def test_orientation_tag_is_not_applied(tmp_path, photo):
    """Masks carry no such tag, so a turned photo would no longer fit its mask."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(photo(4, 10)).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (4, 10, 3)


def test_float_image_is_refused(tmp_path):
    Image.fromarray(np.array([[0.25, 7.5]], np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match=r"a\.tiff: a float image has no defined range"):
        read_image(tmp_path / "a.tiff")


@pytest.mark.parametrize("read", [read_image, read_mask])
def test_missing_file(tmp_path, read):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.png: no such image; check the list"):
        read(tmp_path / "nowhere.png")


@pytest.mark.parametrize("ending", ["jpg", "png", "bmp"])
def test_truncated_file(tmp_path, write_image, photo, ending):
    path = write_image(tmp_path / f"a.{ending}", photo(40, 60))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"a\.{ending}: not a readable image .*remove it"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_image(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.png: not a readable image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    "side", [9460, 20000], ids=["just above the limit", "above twice the limit"]
)
@pytest.mark.parametrize("read", [read_image, read_mask])
def test_decompression_bomb_is_refused_unread(tmp_path, side, read):
    """A few hundred bytes that claim 89.5 and 400 million pixels; Pillow warns, then raises."""
    assert side * side > MAX_PIXELS
    path = _png(tmp_path / "bomb.png", side, side, 8, b"\0" * 1000)
    assert path.stat().st_size < 1000
    with pytest.raises(ValueError, match=r"bomb\.png: image larger than 89478485 pixels"):
        read(path)


def test_mask_gives_stored_ids_not_colours(tmp_path):
    mask = Image.new("P", (4, 1))
    mask.putpalette(bytes(range(256)) * 3)
    mask.putdata([0, 2, 1, 255])
    mask.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 2, 1, 255]]


@pytest.mark.parametrize(
    ("bits", "packed"),
    [(1, b"\0\x50"), (2, b"\0\x1b"), (4, b"\0\x01\xef")],
    ids=["1 bit", "2 bits", "4 bits"],
)
def test_mask_of_few_bits_keeps_its_ids(tmp_path, bits, packed):
    """Pillow would spread them over 0..255: class 1 of a 1-bit mask would become 255, ignored."""
    expected = {1: [0, 1, 0, 1], 2: [0, 1, 2, 3], 4: [0, 1, 14, 15]}[bits]
    assert read_mask(_png(tmp_path / "m.png", 4, 1, bits, packed)).tolist() == [expected]


def test_sixteen_bit_mask_keeps_large_ids(tmp_path, write_image):
    path = write_image(tmp_path / "m.png", np.array([[0, 7, 24001]], np.uint16))
    assert read_mask(path).tolist() == [[0, 7, 24001]]


@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (4, "RGBA")])
def test_colour_mask_is_refused(tmp_path, write_image, photo, channels, mode):
    pixels = np.dstack([photo(), photo(seed=1)])[..., :channels]
    path = write_image(tmp_path / "m.png", pixels)
    with pytest.raises(
        ValueError, match=rf"m\.png: a mask must store one class id.*got mode {mode};"
    ):
        read_mask(path)


def test_gray_and_fourth_channel(tmp_path, write_image, photo):
    pixels = np.dstack([photo(), photo(seed=1)[..., :1]])
    path = write_image(tmp_path / "m.png", pixels)
    assert (read_image(path, 4) == pixels).all()
    assert (read_image(path) == pixels[..., :3]).all()
    gray = read_image(path, 1)
    assert gray.shape == (*pixels.shape[:2], 1)
    luma = pixels[..., :3] @ [0.299, 0.587, 0.114]
    assert np.abs(gray[..., 0] - luma).max() < 1


def test_photo_without_a_fourth_channel(tmp_path, write_image, photo):
    path = write_image(tmp_path / "m.png", photo())
    with pytest.raises(ValueError, match=r"expected an image of 4 channels, got 3 \(RGB\)"):
        read_image(path, 4)
    with pytest.raises(ValueError, match="expected images of 1, 3 or 4 channels, got 2"):
        read_image(path, 2)
