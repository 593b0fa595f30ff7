"""What ``crispmask data check --recommend`` says of data sets that differ in one thing."""

import json

import numpy as np
import own_data
import pytest

from crispmask.cli import main
from crispmask.config import get_config
from crispmask.data import write_shapes
from crispmask.data.annotation_check import check_annotation_file
from crispmask.data.recommendation.anchors import coverage
from crispmask.data.recommendation.recommend import recommend

RECIPE = "refinemask/coco/R_50_FPN_1x.yaml"


def made(images=40, size=(480, 640), objects=4, side=100, aspect=1.0, classes=(1.0,)):
    """A file of blocks whose sides scatter about ``side``; ``classes`` are their shares."""
    rng = np.random.default_rng(0)
    height, width = size
    rows = []
    for image_id in range(1, images + 1):
        for _ in range(objects):
            root = side * np.exp(rng.normal(0, 0.2))
            w, h = (
                min(limit - 1, v) for limit, v in ((width, root * aspect**0.5), (height, root / aspect**0.5))
            )
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            category = int(rng.choice(len(classes), p=classes)) + 1
            outline = [x, y, x + w, y, x + w, y + h, x, y + h]
            row = {"image_id": image_id, "category_id": category, "segmentation": [outline]}
            rows.append({**row, "id": len(rows) + 1, "iscrowd": 0, "bbox": [x, y, w, h], "area": w * h})
    entries = [
        {"id": i, "file_name": f"{i}.jpg", "height": height, "width": width} for i in range(1, images + 1)
    ]
    categories = [{"id": i + 1, "name": f"class {i}"} for i in range(len(classes))]
    return {"images": entries, "annotations": rows, "categories": categories}


def recommended(content, gpus=1, config=RECIPE):
    """Values by key, and the advice as one text."""
    result = recommend(check_annotation_file(content).content, get_config(config), gpus)
    assert all(line.reason for line in result.lines)
    return {line.key: line.value for line in result.lines}, "\n".join(result.advice)


def test_nothing_is_changed_where_nothing_speaks_against_the_recipe():
    values, advice = recommended(made(size=(900, 1200)))
    recipe = get_config(RECIPE)
    for section in ("INPUT", "MODEL"):
        for key, value in values.items():
            if key.startswith(section):
                own = recipe
                for part in key.split("."):
                    own = own[part]
                assert value == own, key
    assert advice == "" and "TEST.DETECTIONS_PER_IMAGE" not in values
    assert "DATALOADER.SAMPLER_TRAIN" not in values


def test_tiny_objects_enlarge_the_input_and_shrink_the_anchors():
    values, advice = recommended(made(size=(1000, 1000), side=8, objects=20))
    assert values["INPUT.MIN_SIZE_TEST"] == 1600 and values["INPUT.MAX_SIZE_TRAIN"] > 2600
    assert values["MODEL.ANCHOR_GENERATOR.SIZES"][0][0] < 20
    assert "tiles of about" in advice and "4.0 times the pixels" in advice
    # A batch of the recipe's size would need four times its memory
    assert values["SOLVER.IMS_PER_BATCH"] == 1


def test_tiles_are_such_that_objects_are_large_enough():
    """A tile at the recipe's size shows the smallest tenth at 16 pixels."""
    _, advice = recommended(made(size=(3000, 4000), side=30))
    tile = int(advice.split("tiles of about ")[1].split()[0])
    assert 16 <= 30 * 800 / tile <= 24


def test_images_of_3000_pixels_with_large_objects_are_not_enlarged():
    values, advice = recommended(made(size=(3000, 4000), side=900))
    assert values["INPUT.MIN_SIZE_TEST"] == 800 and values["INPUT.MAX_SIZE_TEST"] == 1333
    assert "shrunk 3.8 times" in advice and "tiles" in advice


def test_small_images_are_enlarged_for_their_small_objects_alone():
    large, _ = recommended(made(size=(256, 256), side=80))
    small, _ = recommended(made(size=(256, 256), side=12))
    assert large["INPUT.MIN_SIZE_TEST"] == 256 and small["INPUT.MIN_SIZE_TEST"] == 512
    assert large["SOLVER.IMS_PER_BATCH"] > small["SOLVER.IMS_PER_BATCH"]


def test_long_images_keep_their_short_side():
    values, _ = recommended(made(size=(400, 2400), side=60))
    assert values["INPUT.MAX_SIZE_TEST"] == 4 * values["INPUT.MIN_SIZE_TEST"]


def test_scales_of_a_recipe_keep_their_proportion():
    config = "baselines/cityscapes/mask_rcnn_R_50_FPN_1x.yaml"
    recipe = get_config(config)
    values, _ = recommended(made(size=(256, 256)), config=config)
    assert len(recipe.INPUT.MIN_SIZE_TRAIN) > 1
    ends = [values["INPUT.MIN_SIZE_TRAIN"][i] / values["INPUT.MIN_SIZE_TEST"] for i in (0, -1)]
    wanted = [recipe.INPUT.MIN_SIZE_TRAIN[i] / recipe.INPUT.MIN_SIZE_TEST for i in (0, -1)]
    assert ends == pytest.approx(wanted, abs=0.1)


def test_long_objects_get_long_anchors():
    values, _ = recommended(made(size=(900, 1200), aspect=9.0, side=60))
    assert max(values["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"][0]) >= 10
    assert len(values["MODEL.ANCHOR_GENERATOR.SIZES"]) == 5


def test_coverage_counts_the_places_of_the_grid():
    """An anchor of 32 x 32 every 32 pixels: at its place, moved by a quarter, and halfway between four."""
    boxes = np.array([[48.0, 48, 32, 32], [56, 48, 32, 32], [64, 64, 32, 32], [48, 48, 32, 70]])
    assert [coverage(box[None], [32], [1.0], [32]) for box in boxes] == [1, 1, 0, 0]
    assert coverage(boxes, [32], [1.0], [32]) == 0.5
    assert coverage(boxes[3:], [48], [2.0], [32]) == 1


def test_models_without_anchors_get_none():
    values, _ = recommended(made(), config="transfiner/coco/query_R_50_FPN.yaml")
    assert not any("ANCHOR" in key or "RPN" in key for key in values)
    assert "SOLVER.BASE_LR" in values


def test_500_objects_an_image():
    values, advice = recommended(made(images=10, size=(1000, 1000), objects=500, side=30))
    assert values["TEST.DETECTIONS_PER_IMAGE"] == 600
    assert values["MODEL.RPN.POST_NMS_TOPK_TEST"] == 2000
    assert "--max-dets 600" in advice


def test_batch_and_rate_follow_the_gpus():
    content = made(images=400, size=(900, 1200))
    one, four, cpu = (recommended(content, gpus)[0] for gpus in (1, 4, 0))
    assert (one["SOLVER.IMS_PER_BATCH"], four["SOLVER.IMS_PER_BATCH"]) == (2, 8)
    # The recipe has 0.02 for 16
    assert one["SOLVER.BASE_LR"] == 0.0025 and four["SOLVER.BASE_LR"] == 0.01
    assert one["SOLVER.MAX_ITER"] == 4 * four["SOLVER.MAX_ITER"]
    assert cpu["SOLVER.IMS_PER_BATCH"] == one["SOLVER.IMS_PER_BATCH"]
    assert recommended(content, 64)[0]["SOLVER.IMS_PER_BATCH"] == 64


def test_iterations_lie_between_recipes_of_detectron2():
    """12 epochs of COCO, 64 of Cityscapes, 100 at most; a batch leaves several steps an epoch."""
    content = made(images=6, size=(900, 1200))
    values, _ = recommended(content)
    assert values["SOLVER.IMS_PER_BATCH"] == 1 and values["SOLVER.MAX_ITER"] == 600
    assert values["SOLVER.WARMUP_ITERS"] == 60
    assert values["SOLVER.STEPS"] == (400, 550)
    # Those without objects are not trained on
    content["images"] += [{**image, "id": image["id"] + 100} for image in content["images"]]
    assert recommended(content)[0]["SOLVER.MAX_ITER"] == 600


def test_rare_classes_are_repeated_and_empty_ones_told():
    content = made(images=100, classes=(0.98, 0.01, 0.01))
    content["categories"].append({"id": 9, "name": "none"})
    values, advice = recommended(content)
    assert values["DATALOADER.SAMPLER_TRAIN"] == "RepeatFactorTrainingSampler"
    assert 0 < values["DATALOADER.REPEAT_THRESHOLD"] < 1
    assert "1 classes have no object, 'none'" in advice and "fewer than 10 objects" in advice


@pytest.mark.parametrize(
    "content",
    [
        {"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]},
        {**made(images=3), "annotations": []},
    ],
)
def test_files_without_objects(content):
    values, _ = recommended(content)
    assert not any(key.startswith(("INPUT", "MODEL", "TEST")) for key in values)


def test_images_without_size_are_told():
    content = made(images=3)
    for image in content["images"]:
        del image["height"], image["width"]
    values, advice = recommended(content)
    assert "--images" in advice and "SOLVER.MAX_ITER" in values


def test_command_writes_a_config_that_loads(tmp_path, capsys):
    write_shapes(tmp_path, "train", count=12, size=64, seed=0)
    file, out = tmp_path / "annotations/instances_train.json", tmp_path / "configs/mine.yaml"
    words = ["--recommend-yaml", str(out), "--config-file", "shapes/detector_R_18_FPN.yaml", "--gpus", "0"]
    assert main(["data", "check", str(file), *words]) == 0
    printed = capsys.readouterr().out
    cfg, recipe = get_config(out), get_config("shapes/detector_R_18_FPN.yaml")
    assert cfg.SOLVER.IMS_PER_BATCH == 2 and cfg.MODEL.RESNETS == recipe.MODEL.RESNETS
    assert cfg.SOLVER.BASE_LR == recipe.SOLVER.BASE_LR / 2
    # What is printed is what is written
    assert "# linear with the batch: the recipe has 0.001 for 4" in printed
    assert out.read_text().partition("\n")[2] in printed


def test_masks_of_run_lengths_ask_for_bitmasks(tmp_path, capsys):
    write_shapes(tmp_path, "train", count=12, size=64, seed=0)
    file = tmp_path / "annotations/instances_train.json"
    values, _ = recommended(json.loads(file.read_text()))
    assert values["INPUT.MASK_FORMAT"] == "bitmask"
    assert "INPUT.MASK_FORMAT" not in recommended(made())[0]


def test_wrong_flags(tmp_path, capsys):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(own_data.annotations()))
    for words, part in (
        (["--gpus", "-1"], "--gpus -1 is no number of GPUs"),
        (["--recommend", "--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["--recommend-yaml", str(file)], "given twice"),
    ):
        assert main(["data", "check", str(file), *words]) == 2
        assert part in capsys.readouterr().err
