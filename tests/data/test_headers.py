"""Headers of picture files."""

from pathlib import Path

import pytest
from PIL import Image

from hrformer.data.headers import read_header
from hrformer.data.images import ImageError


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
