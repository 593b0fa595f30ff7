"""Mean IoU and mean Boundary IoU of label images against a plain computation, and faults."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crispmask.cli import main
from crispmask.evaluation import evaluate
from crispmask.evaluation.masks.boundary_iou import boundary_width
from crispmask.evaluation.notes import collected_notes
from crispmask.evaluation.semantic.protocol import evaluate_semantic
from tests.evaluation.test_panoptic import band


def blocks(rng, labels):
    """(48, 64) of labels, in blocks of 8 x 8."""
    return np.kron(rng.choice(labels, (6, 8)), np.ones((8, 8), np.int64))


def make_images(seed):
    """Ground truth with ignored pixels, and predictions that are shifted and partly wrong."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(3):
        truth = blocks(rng, [0, 1, 3, 300, 255])
        found = np.roll(truth, rng.integers(-2, 3, 2), (0, 1))
        other = blocks(rng, [0, 0, 0, 0, 1])
        images.append((truth, np.where(other == 1, rng.choice([0, 1, 5, 255]), found)))
    return images


def write(folder, images):
    """Folders of 16 bit PNGs."""
    paths = folder / "gt", folder / "pred"
    for number, image in enumerate(images):
        for path, labels in zip(paths, image, strict=True):
            (path / "city").mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels.astype(np.uint16)).save(path / "city" / f"{number}.png")
    return paths


def plain_ious(images, label, ratio=None):
    """IoU of a label, of all images together."""
    shared = union = 0
    for truth, found in images:
        masks = [truth == label, (found == label) & (truth != 255)]
        if ratio:
            masks = [band(mask, boundary_width(*truth.shape, ratio)) for mask in masks]
        shared += (masks[0] & masks[1]).sum()
        union += (masks[0] | masks[1]).sum()
    return 100 * shared / union


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.01, 0.03]))
def test_figures_are_those_of_a_plain_computation(tmp_path_factory, seed, ratio):
    images = make_images(seed)
    ours = evaluate_semantic(*write(tmp_path_factory.mktemp("semantic"), images), dilation_ratio=ratio)
    for task, figures in ours.items():
        expected = {k: plain_ious(images, k, ratio if task == "boundary" else None) for k in (0, 1, 3, 300)}
        assert [k for k in figures if "/" in k] == ["IoU/0", "IoU/1", "IoU/3", "IoU/300"]
        for label, iou in expected.items():
            assert figures[f"IoU/{label}"] == pytest.approx(iou, abs=1e-9)
        assert figures["mIoU"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
    truth, found = (np.concatenate([image[side].ravel() for image in images]) for side in (0, 1))
    kept = truth != 255
    truth, found = truth[kept], found[kept]
    assert ours["segm"]["pACC"] == pytest.approx(100 * (truth == found).mean())
    shares = {k: (truth == k).mean() for k in (0, 1, 3, 300)}
    right = [100 * (found[truth == k] == k).mean() for k in shares]
    assert ours["segm"]["mACC"] == pytest.approx(np.mean(right))
    weighted = sum(share * ours["segm"][f"IoU/{k}"] for k, share in shares.items())
    assert ours["segm"]["fwIoU"] == pytest.approx(weighted)
    assert ours["boundary"]["mIoU"] < ours["segm"]["mIoU"]


def test_names_and_the_ignored_label(tmp_path, capsys):
    folders = write(tmp_path, make_images(1))
    names = tmp_path / "names.txt"
    names.write_text("road\nwall\nsky\ntree\n")
    figures = evaluate(*folders, "semantic", "mask", class_names=names, ignore_label=0)
    assert [k for k in figures if "/" in k] == ["IoU/wall", "IoU/tree", "IoU/255", "IoU/300"]
    assert evaluate(*folders, "semantic", class_names=["a", "b"])["IoU/b"] > 0
    out = tmp_path / "figures.json"
    words = ["--class-names", names, "--ignore-label", "0", "--json", out, "--per-class"]
    assert main(list(map(str, ["evaluate", *folders, "--protocol", "semantic", *words]))) == 0
    printed = capsys.readouterr().out
    assert "mIoU" in printed and "tree" in printed and "boundary IoU" in printed
    report = json.loads(out.read_text())
    assert report["results"]["mask"]["mIoU"] == figures["mIoU"] and report["ignore_label"] == 0


def test_any_number_of_processes_gives_the_same(tmp_path):
    folders = write(tmp_path, make_images(4))
    one, two = (evaluate(*folders, "semantic", workers=number) for number in (1, 2))
    assert one == two


def test_ignored_pixels_draw_no_boundary(tmp_path):
    """The prediction goes on where nobody looked."""
    truth, found = np.zeros((2, 60, 80), np.int64)
    truth[20:40, 20:60] = found[20:40, 20:75] = 1
    truth[:, 60:] = 255
    found[:, 75:] = 1
    figures = evaluate(*write(tmp_path, [(truth, found)]), "semantic")
    assert figures["IoU/1"] == figures["mIoU"] == 100


def test_nothing_to_judge(tmp_path):
    ignored = np.full((20, 30), 255)
    for kind in ("mask", "boundary"):
        folder = tmp_path / kind
        assert math.isnan(evaluate(*write(folder, [(ignored, ignored * 0)]), "semantic", kind)["mIoU"])


def test_faults_are_named(tmp_path):
    gt, pred = write(tmp_path, make_images(1))
    with pytest.raises(ValueError, match=r"There is no folder '.*nowhere' of the ground truth"):
        evaluate(tmp_path / "nowhere", pred, "semantic")
    with pytest.raises(ValueError, match=r"No label image '\*.png'"):
        (tmp_path / "empty").mkdir()
        evaluate(tmp_path / "empty", pred, "semantic")
    (gt / "more.png").write_bytes((gt / "city" / "0.png").read_bytes())
    with pytest.raises(ValueError, match=r"1 of 4 label images have no prediction .* 'more.png'"):
        evaluate(gt, pred, "semantic")
    (pred / "more.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"more\.png' cannot be read"):
        evaluate(gt, pred, "semantic")
    Image.new("RGB", (64, 48)).save(pred / "more.png")
    with pytest.raises(ValueError, match=r"more\.png' holds no labels: .* not RGB"):
        evaluate(gt, pred, "semantic")
    Image.new("L", (63, 48)).save(pred / "more.png")
    with pytest.raises(ValueError, match=r"more\.png' has size \[48, 63\], and .* \[48, 64\]"):
        evaluate(gt, pred, "semantic")
    (gt / "more.png").unlink()
    with collected_notes() as notes:
        evaluate(gt, pred, "semantic")
    assert notes == ["predicted images that the ground truth does not have, left out: 1, 'more.png'"]
    for option in ({"class_names": tmp_path / "none.txt"}, {"ignore_label": True}, {"max_dets": 5}):
        with pytest.raises(ValueError, match=r"cannot be read|an integer|has no max_dets"):
            evaluate(gt, pred, "semantic", **option)


def test_a_jpeg_holds_no_labels(tmp_path):
    """It changes them at their borders, and the figures would be those of others."""
    truth, found = write(tmp_path, make_images(0))
    Image.open(found / "city" / "0.png").convert("L").save(found / "city" / "0.png", "JPEG")
    with pytest.raises(ValueError, match=r"0.png' is a JPEG, which changes labels.*: a PNG is needed"):
        evaluate_semantic(truth, found)
