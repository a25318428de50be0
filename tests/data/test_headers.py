"""Headers of picture files."""

from pathlib import Path

import pytest
from PIL import Image

from hrformer.data.headers import read_header
from hrformer.data.images import ImageError, load_image


def test_size_orientation_and_missing_ends(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise = Image.effect_noise((60, 40), 50).convert("RGB")
    for name in ("a.jpg", "a.png", "a.webp"):
        noise.save(tmp_path / name, exif=exif)
        header = read_header(tmp_path / name)
        assert (header.stored, header.orientation, header.size) == ((60, 40), 6, (40, 60))
        assert not header.cut_short
    for name in ("a.jpg", "a.png"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        assert read_header(tmp_path / name).cut_short
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"a\.jpg: not a picture"):
        read_header(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"b\.jpg: no such file"):
        read_header(tmp_path / "b.jpg")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.bmp", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
        ("a.webp", {"lossless": True}),
        ("a.jp2", {}),
        ("a.gif", {}),
        ("a.ppm", {}),
        ("a.pgm", {}),
        ("a.avif", {}),
    ],
)
def test_files_that_end_too_early(tmp_path: Path, name: str, options: dict) -> None:
    file = tmp_path / name
    noise = Image.effect_noise((60, 40), 50).convert("L" if name.endswith("pgm") else "RGB")
    try:
        noise.save(file, **options)
    except (OSError, KeyError, ValueError):
        pytest.skip("this Pillow does not write it")
    assert not read_header(file).cut_short
    whole = file.read_bytes()
    for length in (len(whole) - 40, len(whole) // 2):
        file.write_bytes(whole[:length])
        try:
            cut_short = read_header(file).cut_short
        except ImageError:
            # Some formats have their header at the end.
            cut_short = True
        assert cut_short


def test_formats_of_phones_are_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for read in (read_header, load_image):
        with pytest.raises(ImageError, match=r"a\.heic: HEIC is not read here; save such pictures as JPEG"):
            read(tmp_path / "a.heic")
