"""Which files a page may show: those of the folder that was given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crispmask.analysis.image_files import ImageFiles
from crispmask.errors import UserError
from tests.data.image_files import write_tiff


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """``images/a.png``, ``images/b.png`` and ``images/sub/a.png``, and ``secret.png`` beside them."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for name in ("images/a.png", "images/b.png", "images/sub/a.png", "secret.png"):
        Image.new("RGB", (5, 4), "red" if name == "secret.png" else "blue").save(tmp_path / name)
    return tmp_path / "images"


def reader(folder: Path | str, name: str) -> ImageFiles:
    images = [{"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": name}]
    return ImageFiles(images, str(folder), {1: (4, 5), 2: (4, 5)})


def names_outside(folder: Path) -> list[str]:
    secret = folder.parent / "secret.png"
    return ["../secret.png", "sub/../../secret.png", "./../secret.png", str(secret), f"/..{secret}"]


@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("relative", [False, True])
def test_a_name_that_leaves_the_folder_is_refused(
    folder: Path, number: int, relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = names_outside(folder)[number]
    if relative:
        monkeypatch.chdir(folder)
    with pytest.raises(UserError, match=r"^Image '.*secret\.png' of the ground truth is outside of"):
        reader("." if relative else folder, name)


@pytest.mark.parametrize(
    "name", ["../nothing.png", "/nothing/at/all.png", "x" * 5000, "a\0b", "..", "", "sub"]
)
def test_a_name_of_nothing_is_an_image_that_is_not_there(folder: Path, name: str) -> None:
    images = reader(folder, name)
    assert images.read(1) is not None and images.read(2) is None and images.unread == 1


def test_a_file_of_the_folder_stands_for_a_name_from_elsewhere(folder: Path) -> None:
    """Data sets with the whole paths of another machine, or of this one."""
    for name in (
        "/data/coco/a.png",
        str(folder / "a.png"),
        "http://images.example.org/a.png",
        "sub/../a.png",
    ):
        assert reader(folder, name).read(2) is not None


def test_a_link_in_the_folder_is_followed(folder: Path) -> None:
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    assert reader(folder, "link.png").read(2)[0, 0].tolist() == [255, 0, 0]


def test_pages_show_deep_images_in_the_range_that_is_given(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif", np.full((4, 5), 0.5, np.float32))
    images, sizes = [{"id": 1, "file_name": "a.tif"}], {1: (4, 5)}
    plain = ImageFiles(images, str(tmp_path), sizes)
    assert plain.read(1) is None and plain.unread == 1
    assert (ImageFiles(images, str(tmp_path), sizes, (0, 1)).read(1) == 128).all()
