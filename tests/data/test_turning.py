"""Annotations of photographs that EXIF turns, which a labelling tool drew on the file as it is stored."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_utils

from crispmask.cli import main
from crispmask.data.images import read_image

HEIGHT, WIDTH = 60, 90
OUTLINE = [10, 5, 70, 5, 70, 25, 30, 25, 30, 50, 10, 50]
KEYPOINTS = [10, 5, 2, 29, 49, 1, 0, 0, 0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["polygon", "run lengths"])
def test_fixed_file_fits_the_picture_as_it_is_read(tmp_path, orientation, kind, suffix):
    """What is white in the picture is the object, before and after."""
    rle = mask_utils.frPyObjects([OUTLINE], HEIGHT, WIDTH)[0]
    stored = mask_utils.decode(rle)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored * 255).save(tmp_path / f"a.{suffix}", exif=exif)
    rle = {**rle, "counts": rle["counts"].decode()}
    row = {"id": 1, "image_id": 1, "category_id": 1, "keypoints": KEYPOINTS}
    row["segmentation"] = [OUTLINE] if kind == "polygon" else rle
    data = {
        "images": [{"id": 1, "file_name": f"a.{suffix}", "height": HEIGHT, "width": WIDTH}],
        "annotations": [row],
        "categories": [{"id": 1, "name": "shape"}],
    }
    file, fixed = tmp_path / "a.json", tmp_path / "fixed.json"
    file.write_text(json.dumps(data))
    command = ["data", "check", "--images", str(tmp_path)]
    assert main([*command, str(file)]) == 2
    assert main([*command, str(file), "--fix", str(fixed)]) == 0
    assert main([*command, str(fixed)]) == 0

    upright = read_image(tmp_path / f"a.{suffix}")[..., 0] > 0
    (row,) = json.loads(fixed.read_text())["annotations"]
    mask = row["segmentation"]
    if kind == "polygon":
        mask = mask_utils.frPyObjects(mask, WIDTH, HEIGHT)[0]
    assert (mask_utils.decode(mask) == upright).all()
    rows, columns = np.nonzero(upright)
    box = [columns.min(), rows.min(), columns.max() + 1 - columns.min(), rows.max() + 1 - rows.min()]
    assert row["bbox"] == box
    points = np.reshape(row["keypoints"], (3, 3))
    assert [upright[y, x] for x, y, _ in points] == [True, True, False]
    assert points[:, 2].tolist() == [2, 1, 0]
