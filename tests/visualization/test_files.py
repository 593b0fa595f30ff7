"""Which images of folders and patterns are drawn, and under which names."""

from __future__ import annotations

from pathlib import Path

import pytest

from crispmask.errors import UserError
from crispmask.visualization.files import find_images, is_video, output_stems


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("deeper/most", ".hidden", "out", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "b.PNG",
        "a.jpg",
        "notes.txt",
        "deeper/c.png",
        "deeper/most/a.jpg",
        ".hidden/d.png",
        "out/a.png",
    ):
        (tmp_path / name).touch()
    return tmp_path


def test_folders_give_their_images_by_name(folder: Path) -> None:
    single = folder / "notes.txt"
    expected = {single: "notes.txt", folder / "a.jpg": "a.jpg", folder / "b.PNG": "b.PNG"}
    # What is named twice is taken once
    found = find_images([single, folder, folder / "a.jpg"])
    assert found == expected and list(found) == list(expected)
    with pytest.raises(UserError, match=r"empty.*holds no image.*--recursive"):
        find_images([folder, folder / "empty"])


def test_folders_in_folders_keep_their_names_and_leave_out_the_output(folder: Path) -> None:
    names = list(find_images([folder], recursive=True, leave_out=folder / "out").values())
    assert names == ["a.jpg", "b.PNG", "deeper/c.png", "deeper/most/a.jpg"]
    assert output_stems(names) == ["a", "b", "deeper/c", "deeper/most/a"]
    assert "out/a.png" in find_images([folder], recursive=True).values()


def test_patterns_are_those_of_a_shell(folder: Path) -> None:
    assert list(find_images([f"{folder}/*.[jp]*"]).values()) == ["a.jpg"]
    assert list(find_images([f"{folder}/**/a.*"])) == [
        folder / "a.jpg",
        folder / "deeper/most/a.jpg",
        folder / "out/a.png",
    ]
    with pytest.raises(UserError, match=r"No file fits '.*\*\.gif'"):
        find_images([f"{folder}/*.gif"])
    odd = folder / "a[1].jpg"
    odd.touch()
    assert find_images([odd]) == {odd: "a[1].jpg"}


def test_no_two_pictures_get_one_name() -> None:
    stems = output_stems(["1.jpg", "1.png", "1.jpg", "1-2.jpg", "sub/1.jpg"])
    assert stems[:2] == ["1", "1-2"] and stems[4] == "sub/1" and len(set(stems)) == 5


def test_names_that_differ_in_capitals_alone_are_one_file_on_some_systems() -> None:
    assert output_stems(["IMG.JPG", "img.jpg", "Img.png"]) == ["IMG", "img-2", "Img-3"]


def test_a_name_that_no_file_can_have_is_an_image_that_is_missed(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300 + ".jpg")
    loop = tmp_path / "loop.jpg"
    loop.symlink_to(loop)
    assert list(find_images([long, tmp_path])) == [long, loop]


def test_videos_are_known_by_their_names() -> None:
    assert is_video("clips/A.MOV") and is_video(Path("b.mp4")) and not is_video("c.gif")
