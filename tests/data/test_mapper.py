"""The mapper reads images as everything else does, and says of which it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from PIL import Image

from crispmask import get_config
from crispmask.data.mapper import ImageMapper
from crispmask.errors import DataError, UserError
from tests.data.image_files import write_png16
from tests.data.test_images import same_grey_picture

FORMATS = ["BGR", "RGB", "L", "YUV-BT.601"]


def mapper(is_train: bool = False, opts: tuple[object, ...] = (), **options: Any) -> ImageMapper:
    small = ["INPUT.MIN_SIZE_TRAIN", (16,), "INPUT.MIN_SIZE_TEST", 16, "INPUT.RANDOM_FLIP", "none"]
    return ImageMapper(get_config(None, [*small, *opts]), is_train=is_train, **options)


@pytest.mark.parametrize("image_format", FORMATS)
def test_one_picture_is_one_tensor_in_training_evaluation_and_prediction(
    tmp_path: Path, image_format: str
) -> None:
    opts = ("INPUT.FORMAT", image_format)
    training, evaluation = mapper(True, opts), mapper(False, opts)
    expected = None
    for name, path in same_grey_picture(tmp_path).items():
        record = {"file_name": str(path), "height": 8, "width": 32}
        tensors = [each(record)["image"] for each in (training, evaluation)]
        tensors.append(evaluation.model_input(evaluation.read(str(path)))["image"])
        expected = tensors[0] if expected is None else expected
        assert expected.shape == (1 if image_format == "L" else 3, 16, 64)
        assert all(torch.equal(tensor, expected) for tensor in tensors), name


@pytest.mark.parametrize("image_format", FORMATS)
def test_photos_are_what_detectron2_makes_of_them(shapes_root: Path, image_format: str) -> None:
    cfg = get_config(None, ["INPUT.FORMAT", image_format, "INPUT.MASK_FORMAT", "bitmask"])
    ours, theirs = ImageMapper(cfg, is_train=True), DatasetMapper(cfg, is_train=True)
    for image in DatasetCatalog.get("shapes_train"):
        results = []
        for each in (ours, theirs):
            np.random.seed(0)
            results.append(each(image))
        assert torch.equal(results[0]["image"], results[1]["image"])
        boxes = [result["instances"].gt_boxes.tensor for result in results]
        assert torch.equal(*boxes)
        assert results[0].keys() == results[1].keys()


def test_the_key_reaches_training_and_prediction(tmp_path: Path) -> None:
    path = write_png16(tmp_path / "dark.png", np.full((16, 16), 1024))
    opts = ("INPUT.VALUE_RANGE", [0, 4096])
    for each in (mapper(True, opts), mapper(False, opts)):
        assert (each({"file_name": str(path)})["image"] == 64).all()
        assert (each.read(str(path)) == 64).all()
    with pytest.raises(UserError, match=r"auto must be found first"):
        mapper(opts=("INPUT.VALUE_RANGE", "auto"))


@pytest.mark.parametrize("size", [(3000, 4), (4, 3000), (1, 1), (1, 5000), (20000, 1)])
@pytest.mark.parametrize("is_train", [True, False])
def test_no_picture_shrinks_to_nothing(tmp_path: Path, size: tuple[int, int], is_train: bool) -> None:
    Image.new("RGB", size).save(tmp_path / "thin.png")
    opts = ("INPUT.MAX_SIZE_TRAIN", 64, "INPUT.MAX_SIZE_TEST", 64)
    image = mapper(is_train, opts)({"file_name": str(tmp_path / "thin.png")})["image"]
    assert min(image.shape) >= 1 and max(image.shape) <= 64


def broken(folder: Path, name: str = "broken.jpg") -> dict[str, Any]:
    (folder / name).write_bytes(b"\xff\xd8\xff\xe0 no more")
    return {"file_name": str(folder / name), "height": 16, "width": 16}


def test_an_unreadable_image_stops_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"broken\.jpg'.*set CRISPMASK\.UNREADABLE_IMAGES skip\.$"):
        mapper(True)(broken(tmp_path))
    for opts in ((), ("CRISPMASK.UNREADABLE_IMAGES", "skip")):
        with pytest.raises(DataError, match=r"broken\.jpg'.*or evaluate another\.$"):
            mapper(False, opts)(broken(tmp_path))


def test_another_image_is_taken_for_a_skipped_one_and_tells_of_it(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16), "white").save(tmp_path / "good.png")
    good = {"file_name": str(tmp_path / "good.png")}
    skip, first, second = ("CRISPMASK.UNREADABLE_IMAGES", "skip"), broken(tmp_path), broken(tmp_path, "b.jpg")
    skips = mapper(True, skip, others=[first, good, second])
    assert "unreadable" not in skips(good)
    found = skips(first)
    assert found["file_name"] == good["file_name"] and (found["image"] == 255).all()
    ((path, sentence),) = found["unreadable"]
    assert path == first["file_name"] and "broken.jpg" in sentence
    assert "b.jpg" in skips(second)["unreadable"][0][1] and "unreadable" not in skips(good)
    with pytest.raises(DataError, match=r"None of the 2 images can be read\. .*\.jpg'"):
        mapper(True, skip, others=[first, second])(first)


def test_another_size_than_the_data_set_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(tmp_path / "turned.jpg", exif=exif)
    record = {"file_name": str(tmp_path / "turned.jpg"), "height": 30, "width": 20}
    with pytest.raises(DataError, match=r"turned\.jpg' is 30 x 20, but .* 20 x 30: its EXIF tag turns it"):
        mapper()(record)
    with pytest.raises(DataError, match=r"is 30 x 20, but its data set says 7 x 20: correct its annotations"):
        mapper()({**record, "height": 20, "width": 7})
    Image.new("RGB", (30, 20)).save(tmp_path / "swapped.jpg")
    with pytest.raises(
        DataError, match=r"is 30 x 20, but its data set says 20 x 30: correct its annotations"
    ):
        mapper()({**record, "file_name": str(tmp_path / "swapped.jpg")})


def test_a_sentence_of_a_worker_process_is_that_sentence() -> None:
    dataset = _Failing()
    loader = torch.utils.data.DataLoader(dataset, num_workers=1)
    with pytest.raises(DataError) as error:
        next(iter(loader))
    assert str(error.value) == "Image file 'a: b.jpg' cannot be read."


class _Failing(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> None:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise DataError("Image file 'a: b.jpg' cannot be read.") from error
