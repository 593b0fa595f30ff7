"""Which images of folders are drawn, and under which names."""

from __future__ import annotations

from pathlib import Path

import pytest

from crispmask.errors import UserError
from crispmask.visualization.files import find_images, png_names


def test_folders_give_their_images_by_name(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.PNG", "a.jpg", "notes.txt", "deeper/c.png"):
        (tmp_path / name).touch()
    single = tmp_path / "notes.txt"
    expected = [single, tmp_path / "a.jpg", tmp_path / "b.PNG"]
    # What is named twice is taken once
    assert find_images([single, tmp_path, tmp_path / "a.jpg"]) == expected
    with pytest.raises(UserError, match=r"empty.*holds no image"):
        (tmp_path / "empty").mkdir()
        find_images([tmp_path, tmp_path / "empty"])


def test_no_two_pictures_get_one_name() -> None:
    paths = [Path(p) for p in ("a/1.jpg", "a/1.png", "b/1.jpg", "b/1-2.jpg")]
    names = png_names(paths)
    assert names[:2] == ["1.png", "1-2.png"] and len(set(names)) == 4


def test_names_that_differ_in_capitals_alone_are_one_file_on_some_systems() -> None:
    assert png_names([Path("IMG.JPG"), Path("img.jpg"), Path("Img.png")]) == [
        "IMG.png",
        "img-2.png",
        "Img-3.png",
    ]


def test_a_name_that_no_file_can_have_is_an_image_that_is_missed(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300 + ".jpg")
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    assert find_images([long, tmp_path]) == [long, loop]
