from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from hrformer.data.label_ids import label_table, one_based, train_ids
from hrformer.data.mask_reading import ColourTable, decode_ids, decode_mask, read_mask
from hrformer.data.set_types import DataError

IDS = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 0, 3, 255]], np.uint8)
NOISE = cv2.imencode(".png", np.random.default_rng(0).integers(0, 4, (60, 80), np.uint8))[1].tobytes()


def encoded(values: np.ndarray, mode: str | None = None, kind: str = "PNG", **options: object) -> bytes:
    image = Image.fromarray(values)
    if mode == "P":
        image.putpalette([(7 * number + channel) % 256 for number in range(256) for channel in range(3)])
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey_png(values: np.ndarray, bits: int) -> bytes:
    """A grey PNG of few bits, written by hand: no library here writes 2 or 4 bits of grey."""
    height, width = values.shape
    rows = b""
    for row in values:
        digits = "".join(format(int(value), f"0{bits}b") for value in row)
        digits += "0" * (-len(digits) % 8)
        rows += b"\0" + int(digits, 2).to_bytes(len(digits) // 8, "big")

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_masks_of_camvid_are_read_as_they_are(data_dir: Path) -> None:
    files = sorted((data_dir / "camvid" / "labels" / "val").iterdir())[:5]
    assert len(files) == 5
    for file in files:
        expected = np.asarray(Image.open(file))
        assert set(np.unique(expected)) <= {*range(11), 255}
        assert np.array_equal(read_mask(file, train_ids(11)), expected)


@pytest.mark.parametrize(
    "data",
    [
        encoded(IDS),
        encoded(IDS, "P"),
        encoded(IDS, kind="BMP"),
        encoded(IDS, kind="TIFF", compression="tiff_lzw"),
    ],
    ids="grey palette bmp tiff".split(),
)
def test_ids_survive_every_kind_of_file(data: bytes) -> None:
    assert np.array_equal(decode_ids(data, "m"), IDS)
    assert np.array_equal(decode_mask(data, "m", train_ids(4)), IDS)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(bits: int) -> None:
    values = np.arange(35, dtype=np.uint8).reshape(5, 7) % 2**bits
    assert np.array_equal(decode_ids(grey_png(values, bits), "m"), values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_bits(bits: int) -> None:
    values = np.arange(35, dtype=np.uint8).reshape(5, 7) % 2**bits
    data = encoded(values, "P", bits=bits)
    assert data[24:26] == bytes([bits, 3])
    assert np.array_equal(decode_ids(data, "m"), values)


def test_ids_of_16_bits() -> None:
    wide = np.array([[2, 458, 300], [65535, 0, 459]], np.uint16)
    values = decode_ids(cv2.imencode(".png", wide)[1].tobytes(), "m")
    assert values.dtype == np.uint16
    assert np.array_equal(values, wide)
    assert np.array_equal(decode_ids(encoded(wide, kind="TIFF"), "m"), wide)
    table = label_table((458, 300), (2, 0, 459, 65535), meaning="", advice="")
    assert np.array_equal(table.convert(wide, "m"), [[255, 0, 1], [255, 255, 255]])


def test_pictures_of_colours_are_no_ids() -> None:
    with pytest.raises(
        DataError, match=r"m\.png: .*picture of colours \(mode RGB\).*set SegmentationSource\.palette_masks"
    ):
        decode_ids(encoded(np.zeros((2, 2, 3), np.uint8)), "m.png")
    with pytest.raises(DataError, match="mode RGBA"):
        decode_ids(encoded(np.zeros((2, 2, 4), np.uint8)), "m.png")


def test_ids_saved_as_rgb() -> None:
    grey = cv2.imencode(".png", np.repeat(np.array([[[1], [2]]], np.uint8), 3, axis=2))[1].tobytes()
    with pytest.raises(DataError, match="Its channels are equal: if they hold ids, save one of them alone"):
        decode_ids(grey, "m.png")


def test_a_changed_byte_is_no_other_id(tmp_path: Path) -> None:
    ids = cv2.resize(np.random.default_rng(0).integers(0, 3, (30, 40), np.uint8), (320, 240), interpolation=0)
    whole = cv2.imencode(".png", ids)[1].tobytes()
    for place in range(60, len(whole) - 20, len(whole) // 40):
        (tmp_path / "m.png").write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"m\.png: .*(damaged|decoded)"):
            read_mask(tmp_path / "m.png", train_ids(3))


def test_jpeg_holds_no_mask() -> None:
    with pytest.raises(DataError, match="JPEG changes values"):
        decode_ids(encoded(IDS, kind="JPEG"), "m")
    with pytest.raises(DataError, match="JPEG changes values, so"):
        decode_mask(encoded(np.zeros((8, 8, 3), np.uint8), kind="JPEG"), "m", ColourTable({(0, 0, 0): 0}, "list"))


@pytest.mark.parametrize("data", [b"", b"no picture", NOISE[: len(NOISE) // 2], encoded(IDS)[:30]])
def test_broken_files_are_named(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(data)
    with pytest.raises(DataError, match=r"broken\.png: cannot be decoded as a mask \(.*\.png"):
        read_mask(tmp_path / "broken.png", train_ids(4))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.png: No such file"):
        read_mask(tmp_path / "gone.png", train_ids(4))


def test_wrong_ids_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(IDS))
    with pytest.raises(DataError, match=r"a\.png: 3 of \d+ pixels hold the id 3, but the ids here are class numbers"):
        read_mask(tmp_path / "a.png", train_ids(3))


@pytest.mark.parametrize(("field", "dtype"), [("S", np.uint8), ("LabelMap", np.uint16), ("S", np.float64)])
def test_matlab_files(field: str, dtype: type, tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    values = np.array([[0, 1, 5], [2, 4, 3]], dtype)
    savemat(tmp_path / "a.mat", {"other": "text", field: values}, do_compression=True)
    assert read_mask(tmp_path / "a.mat", one_based(5)).tolist() == [[255, 0, 4], [1, 3, 2]]


def test_matlab_files_that_are_not_masks(tmp_path: Path) -> None:
    savemat = pytest.importorskip("scipy.io").savemat
    savemat(tmp_path / "other.mat", {"T": np.zeros((2, 2))})
    with pytest.raises(DataError, match=r"other\.mat: has none of the fields S, LabelMap"):
        read_mask(tmp_path / "other.mat", one_based(5))
    savemat(tmp_path / "half.mat", {"S": np.array([[0.5, 1.0]])})
    with pytest.raises(DataError, match=r"half\.mat: ids must be whole numbers in 0..65535, got 0.5 to 1"):
        read_mask(tmp_path / "half.mat", one_based(5))
    savemat(tmp_path / "deep.mat", {"S": np.zeros((2, 2, 2), np.uint8)})
    with pytest.raises(DataError, match=r"deep\.mat: .*one table of numbers \(H, W\), got shape \(2, 2, 2\)"):
        read_mask(tmp_path / "deep.mat", one_based(5))
    (tmp_path / "text.mat").write_text("not MATLAB's")
    with pytest.raises(DataError, match=r"text\.mat: cannot be read as a MATLAB file"):
        read_mask(tmp_path / "text.mat", one_based(5))


def test_colours() -> None:
    colours = {(0, 0, 0): 255, (128, 64, 128): 0, (0, 0, 142): 1, (0, 1, 142): 2}
    table = ColourTable(colours, "classes.txt")
    expected = np.random.default_rng(0).choice([255, 0, 1, 2], (9, 7))
    lookup = {number: colour for colour, number in colours.items()}
    pixels = np.array([[lookup[int(number)] for number in row] for row in expected], np.uint8)
    assert np.array_equal(decode_mask(encoded(pixels), "m", table), expected)
    with_alpha = np.concatenate([pixels, np.full((9, 7, 1), 255, np.uint8)], axis=2)
    assert np.array_equal(decode_mask(encoded(with_alpha), "m", table), expected)
    palette = Image.fromarray(pixels).quantize(4)
    stream = io.BytesIO()
    palette.save(stream, "PNG")
    assert np.array_equal(decode_mask(stream.getvalue(), "m", table), expected)
    pixels[0, 0], pixels[1, 1] = (1, 2, 3), (255, 255, 255)
    message = r"m\.png: 2 of \d+ pixels have colours .* classes.txt does not list: \(1, 2, 3\), \(255, 255, 255\)\. Add"
    with pytest.raises(DataError, match=message):
        decode_mask(encoded(pixels), "m.png", table)
