from __future__ import annotations

import io
import json
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from hrformer.data import images
from hrformer.data.images import ImageError, is_single, load_image, load_images


def encoded(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def test_decoding_matches_the_golden(coco_images: list[Path], parity_dir: Path) -> None:
    expected = json.loads((parity_dir / "protocol" / "crops.json").read_text())["decoded_rgb_crc32"]
    assert {path.name: zlib.crc32(load_image(path).pixels.tobytes()) for path in coco_images} == expected


@pytest.mark.parametrize("make", [Path, str], ids=["path", "string"])
def test_files_keep_their_name(make, noise: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "ö x.png"
    file.write_bytes(encoded(noise, "PNG"))
    image = load_image(make(file))
    assert image.path == str(file)
    assert image.size == (90, 60)
    assert np.array_equal(image.pixels, noise)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM", "TGA"])
def test_formats(kind: str, noise: np.ndarray, tmp_path: Path) -> None:
    flat = np.zeros_like(noise)
    flat[:30, :, 0] = 255
    file = tmp_path / "x"
    file.write_bytes(encoded(flat, kind, **({"lossless": True} if kind == "WEBP" else {})))
    assert np.array_equal(load_image(file).pixels, flat)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_turns_the_picture_upright(kind: str, tmp_path: Path) -> None:
    sideways = np.zeros((40, 80, 3), np.uint8)
    sideways[:, :20] = 255  # left edge as stored; orientation 6 shows it on top
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "x"
    file.write_bytes(encoded(sideways, kind, exif=exif))
    pixels = load_image(file).pixels
    assert pixels.shape == (80, 40, 3)
    assert pixels[:16].mean() > 250
    assert pixels[24:].mean() < 5
    stored = load_image(file, upright=False).pixels
    assert stored.shape == (40, 80, 3)
    assert stored[:, :16].mean() > 250
    with Image.open(file) as opened:
        assert np.abs(load_image(opened).pixels.astype(int) - pixels).max() <= 3


def test_forms_in_memory_agree(noise: np.ndarray) -> None:
    chw = torch.from_numpy(noise).permute(2, 0, 1)
    alpha = np.concatenate([noise, np.full((60, 90, 1), 7, np.uint8)], axis=2)
    forms = [noise, alpha, Image.fromarray(noise), Image.fromarray(alpha, "RGBA"), noise / 255, chw, chw / 255]
    for form in forms:
        image = load_image(form)
        assert image.path is None
        assert image.pixels.dtype == np.uint8
        assert np.array_equal(image.pixels, noise)
    half = load_image((chw / 255).bfloat16()).pixels
    assert np.abs(half.astype(int) - noise).max() <= 1


def test_grey_becomes_three_equal_channels(noise: np.ndarray) -> None:
    grey = noise[:, :, 0]
    for form in (grey, grey[:, :, None], Image.fromarray(grey), torch.from_numpy(grey), torch.from_numpy(grey)[None]):
        assert np.array_equal(load_image(form).pixels, np.stack([grey] * 3, axis=2))


def test_collections_and_batches(noise: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encoded(noise, "PNG"))
    assert [image.size for image in load_images((file, noise[:20]))] == [(90, 60), (90, 20)]
    batch = torch.zeros(3, 3, 8, 9, dtype=torch.uint8)
    assert not is_single(batch)
    assert [image.size for image in load_images(batch)] == [(9, 8)] * 3
    assert len(list(load_images(np.zeros((2, 8, 9, 3), np.uint8)))) == 2
    assert list(load_images([])) == []
    assert is_single(file)
    assert is_single(noise)
    assert not is_single([file])


DEEP = np.arange(65536, dtype=np.uint16).reshape(256, 256)
RGBA = np.random.default_rng(1).integers(0, 256, (20, 30, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("picture", "kind", "tolerance"),
    [
        *((Image.fromarray(DEEP), kind, 0) for kind in ("PNG", "TIFF", "PPM")),
        (Image.fromarray(DEEP.astype(np.int32)), "TIFF", 0),
        (Image.fromarray((DEEP / 65535).astype(np.float32)), "TIFF", 0),
        *((Image.fromarray(RGBA).convert(mode), "TIFF", 0) for mode in ("1", "LA", "RGBA", "CMYK", "YCbCr")),
        *((Image.fromarray(RGBA).convert("RGB").convert(mode), "PNG", 0) for mode in ("1", "LA", "P")),
        (Image.fromarray(RGBA).convert("CMYK"), "JPEG", 1),
    ],
    ids=lambda value: getattr(value, "mode", str(value)),
)
def test_path_bytes_and_pil_agree(picture: Image.Image, kind: str, tolerance: int, tmp_path: Path) -> None:
    file = tmp_path / "x"
    picture.save(file, kind)
    pixels = load_image(file).pixels
    assert np.array_equal(load_image(file.read_bytes()).pixels, pixels)
    with Image.open(file) as opened:
        assert np.abs(load_image(opened).pixels.astype(int) - pixels).max() <= tolerance
    if picture.mode.startswith("I"):
        assert np.array_equal(pixels[:, :, 0], DEEP >> 8)


def test_sixteen_bits_bool_and_premultiplied_values_are_scaled() -> None:
    grey = np.stack([DEEP >> 8] * 3, axis=2)
    for form in (
        DEEP,
        DEEP.astype(">u2"),
        torch.from_numpy(DEEP),
        Image.frombytes("I;16B", (256, 256), DEEP.byteswap()),
    ):
        assert np.array_equal(load_image(form).pixels, grey)
    assert np.array_equal(load_image(DEEP > 9).pixels[0, 8:12, 0], [0, 0, 255, 255])
    assert load_image(Image.new("RGBA", (2, 2), (200, 100, 0, 128)).convert("RGBa")).pixels[0, 0, 0] in (199, 200, 201)
    assert load_image(Image.new("LA", (2, 2), (200, 128)).convert("La")).pixels[0, 0, 0] in (199, 200, 201)


@pytest.mark.parametrize("channels", [1, 3])
def test_floating_point_portable_maps_are_scaled(channels: int, tmp_path: Path) -> None:
    values = np.repeat(np.linspace(0, 1, 256, dtype=np.float32)[None, :, None], channels, axis=2)
    cv2.imwrite(str(tmp_path / "x.pfm"), values)
    assert np.array_equal(load_image(tmp_path / "x.pfm").pixels[0, :, 2], np.arange(256))


def test_pixels_of_pil_images_are_writable_for_torch() -> None:
    assert load_image(Image.new("RGB", (3, 2))).pixels.flags.writeable


def test_alpha_is_kept_in_every_form(tmp_path: Path) -> None:
    with_key = Image.fromarray(RGBA).convert("RGB").quantize(16)
    for name in ("x.png", "x.webp", "x.tif"):
        Image.fromarray(RGBA).save(tmp_path / name, lossless=True, exact=True)
    for form in (RGBA, torch.from_numpy(RGBA).permute(2, 0, 1), Image.fromarray(RGBA), *sorted(tmp_path.glob("x.*"))):
        assert np.array_equal(load_image(form).for_channels(4), RGBA)
        assert np.array_equal(load_image(form).for_channels(3), RGBA[..., :3])
    with_key.save(tmp_path / "key.png", transparency=0)
    assert np.array_equal(load_image(tmp_path / "key.png").alpha, np.where(np.asarray(with_key) == 0, 0, 255))
    assert load_image(RGBA[..., :3]).alpha is None
    assert (load_image(RGBA[..., :3]).for_channels(4)[..., 3] == 255).all()


def test_files_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    Image.new("1", (30000, 30000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match=r"bomb.png: .*900000000 pixels"):
        load_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("data", "first"),
    [
        (b"P5 4 1 15\n" + bytes([0, 5, 10, 15]), [0, 85, 170, 255]),
        (b"P6 2 1 15\n" + bytes([0, 0, 0, 15, 15, 15]), [0, 255]),
        (b"P6 2 1 1023\n" + bytes([0, 0] * 3 + [3, 255] * 3), [0, 255]),
    ],
)
def test_portable_maps_of_any_depth_are_scaled(data: bytes, first: list[int]) -> None:
    assert load_image(data).pixels[0, :, 0].tolist() == first
    assert np.array_equal(load_image(Image.open(io.BytesIO(data))).pixels, load_image(data).pixels)


def test_portable_arbitrary_maps_are_refused() -> None:
    with pytest.raises(ImageError, match="not a picture in a format known here"):
        load_image(b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n" + bytes(3))


def test_avif_is_turned_upright(noise: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise).save(tmp_path / "x.avif", exif=exif)
    assert load_image(tmp_path / "x.avif").size == noise.shape[:2]


def test_deep_tiff_of_twelve_bits_or_white_at_zero(tmp_path: Path) -> None:
    Image.fromarray(np.array([[65535, 300]], np.uint16)).save(tmp_path / "x.tif", tiffinfo={262: 0})
    assert load_image(tmp_path / "x.tif").pixels[0, :, 0].tolist() == [0, 254]
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = b"II*\0" + struct.pack("<I", 12) + bytes([0x10, 0x0F, 0xFF]) + b"\0"
    pixels = load_image(start + struct.pack("<H", len(tags)) + entries + bytes(4)).pixels
    assert pixels[0, :, 0].tolist() == [0x10, 0xFF]


def test_dark_files_of_sixteen_bits_are_refused_and_black_ones_not(tmp_path: Path) -> None:
    for kind in ("PNG", "TIFF"):
        Image.fromarray(np.full((4, 4), 99, np.uint16)).save(tmp_path / "x", kind)
        with pytest.raises(ImageError, match="end at 99"):
            load_image(tmp_path / "x")
        Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "x", kind)
        assert load_image(tmp_path / "x").pixels.max() == 0


def test_floating_point_files_outside_the_unit_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 200, np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x.tif: .*lie in \[0, 1\], got values from 200"):
        load_image(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Image.fromarray(np.full((4, 4), -1, np.int32)), "0 to 65535, got -1"),
        (Image.fromarray(np.full((4, 4), np.nan, np.float32)), r"lie in \[0, 1\]"),
        (b"hello", "bytes: not a picture"),
        ("http://[", "Invalid IPv6 URL"),
        ("~no-such-user/x.png", "no such file"),
        (torch.eye(3).to_sparse(), "cannot be made from this Tensor"),
        (torch.zeros(3, 4, 4, device="meta"), "cannot be made from this Tensor"),
        (np.full((4, 4), 255, np.uint16), "end at 255 and would be black"),
        (Image.new("L", (4, 4), 200).convert("I"), "end at 200 and would be black"),
        (np.broadcast_to(np.uint8(0), (30000, 30000, 3)), "more than 536870911 pixels"),
        (np.zeros((4, 4, 3)) + 255.0, r"lie in \[0, 1\], got values from 255 to 255"),
        (np.full((4, 4, 3), np.nan), r"lie in \[0, 1\]"),
        (np.zeros((4, 4, 3), np.int64), "must be uint8"),
        (np.zeros((4, 4, 2), np.uint8), r"shape \(H, W\), \(H, W, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "no pixels"),
        (np.zeros(4, np.uint8), "shape"),
        (torch.zeros(5, 4, 3), "channels first"),
        (torch.zeros(2), "must have shape"),
        (7, "from a int"),
    ],
)
def test_unusable_values_are_explained(source: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        list(load_images(source))


def test_unreadable_files_are_named(noise: np.ndarray, tmp_path: Path) -> None:
    files = {
        "absent.jpg": (None, "no such file"),
        "empty.jpg": (b"", "is empty"),
        "text.png": (b"hello", "not a picture"),
        "cut.jpg": (encoded(noise, "JPEG", quality=95)[:3000], "truncated"),
        "cut.png": (encoded(noise, "PNG")[:3000], "cut.png"),
    }
    for name, (data, message) in files.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(ImageError, match=message) as caught:
            load_image(tmp_path / name)
        assert str(caught.value).count(name) == 1
    with pytest.raises(ImageError, match="is a folder"):
        load_image(tmp_path)


def test_cut_jpeg_is_refused_even_where_opencv_fills_it_up(
    noise: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # OpenCV 4 returns such pictures with a grey rest, OpenCV 5 refuses them.
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: noise)
    whole = encoded(noise, "JPEG", quality=95)
    file = tmp_path / "x.jpg"
    file.write_bytes(whole + b"trailing bytes \xff\xd8 of a phone")
    assert load_image(file).size == (90, 60)
    file.write_bytes(whole[:-400])
    with pytest.raises(ImageError, match="truncated"):
        load_image(file)


@pytest.fixture
def web(noise: np.ndarray) -> Iterator[str]:
    """Address of a server with one picture."""
    data = encoded(noise, "PNG")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/noise.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(data if found else b"")

        def log_message(self, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_urls(web: str, noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    image = load_image(f"{web}/noise.png")
    assert np.array_equal(image.pixels, noise)
    assert image.path == f"{web}/noise.png"
    with pytest.raises(ImageError, match="404"):
        load_image(f"{web}/other.png")
    monkeypatch.setattr(images, "URL_TIMEOUT", 0.5)
    with pytest.raises(ImageError, match=r"http://127.0.0.1:1/x.png: .+"):
        load_image("http://127.0.0.1:1/x.png")
