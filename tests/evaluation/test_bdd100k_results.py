"""BDD100K's predictions as bitmasks with a file of scores, and frames with and without run lengths."""

import json
import resource
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
from PIL import Image

from crispmask.evaluation import evaluate

GOLDEN = Path(__file__).parents[1] / "golden" / "bdd100k"
CAR = 3
SIZE = (60, 80)
LEFT, RIGHT = (5, 5, 35, 45), (45, 5, 75, 45)
# pycocotools adds an epsilon to the denominator of precision.
FULL = pytest.approx(100)


def write_bitmask(path, objects, size=SIZE):
    """Objects are category, flags, number and mask (H, W) or box x0, y0, x1, y1; later ones cover earlier."""
    pixels = np.zeros((*size, 4), np.uint8)
    for category, flags, number, where in objects:
        if isinstance(where, tuple):
            x0, y0, x1, y1 = where
            where = np.zeros(size, bool)
            where[y0:y1, x0:x1] = True
        pixels[where] = category, flags, number >> 8, number & 255
    Image.fromarray(pixels).save(path)


def test_golden_figures_of_raw_and_painted_predictions(tmp_path):
    """What is painted into bitmasks has, in both figures, that of painted predictions."""
    rows = json.loads((GOLDEN / "predictions.json").read_text())
    frames = []
    for image_id, path in enumerate(sorted((GOLDEN / "bitmasks").iterdir()), 1):
        own = list(enumerate((row for row in rows if row["image_id"] == image_id), 250))
        painted = sorted(own, key=lambda pair: (pair[1]["score"], -pair[0]))
        objects = [(r["category_id"], 0, n, mask_utils.decode(r["segmentation"]) > 0) for n, r in painted]
        write_bitmask(tmp_path / path.name, objects, (90, 160))
        labels = [{"index": number, "score": row["score"]} for number, row in own]
        frames.append({"name": f"{path.stem}{'.jpg' if image_id % 2 else '.png'}", "labels": labels})
    figures = evaluate(GOLDEN / "bitmasks", rows, "bdd100k", "mask")
    assert (figures["AP"], figures["nonoverlap/AP"]) == (22.857120549147645, 15.288490753837285)
    (tmp_path / "scores.json").write_text(json.dumps(frames))
    for scores in (frames, {"frames": frames}, tmp_path / "scores.json"):
        for iou_type in ("mask", "boundary"):
            expected = evaluate(GOLDEN / "bitmasks", rows, "bdd100k", iou_type)
            figures = evaluate(GOLDEN / "bitmasks", tmp_path, "bdd100k", iou_type, scores=scores)
            for name in (name for name in figures if not name.startswith("nonoverlap")):
                of_painted = pytest.approx(expected[f"nonoverlap/{name}"], rel=0, abs=0, nan_ok=True)
                assert figures[name] == figures[f"nonoverlap/{name}"] == of_painted or np.isnan(figures[name])


@pytest.fixture
def split(tmp_path):
    """Bitmasks of two frames with two cars each, the same as predictions, and their scores."""
    for kind in ("gt", "pred"):
        (tmp_path / kind).mkdir()
        for name in "ab":
            write_bitmask(tmp_path / kind / f"{name}.png", [(CAR, 0, 300, LEFT), (CAR, 0, 7, RIGHT)])
    labels = [{"index": 300, "score": 0.9}, {"index": 7, "score": 0.8, "category": "car"}]
    save(tmp_path, [{"name": "a.jpg", "labels": labels}, {"name": "b.png", "labels": labels}])
    return tmp_path


def save(split, frames):
    (split / "scores.json").write_text(json.dumps(frames))


def load(split):
    return json.loads((split / "scores.json").read_text())


def score(split, **options):
    options = {"scores": split / "scores.json", **options}
    return evaluate(split / "gt", split / "pred", "bdd100k", "mask", **options)


def test_an_object_is_found_by_its_number(split):
    assert score(split)["AP"] == score(split)["nonoverlap/AP"] == FULL


def test_what_the_toolkit_leaves_out_is_left_out_and_counted(split, caplog):
    first, second = load(split)
    first["labels"][0]["index"] = 299
    second["labels"][1]["category"] = "bus"
    save(split, [first, second, {"name": "c.jpg", "labels": [{"index": 1, "score": 0.1}]}])
    write_bitmask(split / "pred" / "c.png", [(CAR, 0, 1, LEFT)])
    assert 60 < score(split)["AP"] < 80
    assert [record.getMessage() for record in caplog.records] == [
        "frames of the scores that the ground truth does not have, left out: 1, 'c.jpg'",
        f"bitmasks of no image of the ground truth, not read: 1, '{split / 'pred' / 'c.png'}'",
        "scores of objects that the bitmask does not have, left out: 1, label 0 of frame 'a.jpg'",
        f"objects of bitmasks without a score, left out: 1, object 300 of '{split / 'pred' / 'a.png'}'",
        "scores of another category than the bitmask has, which counts: 1, label 1 of frame 'b.png'",
    ]


def test_a_black_bitmask_needs_no_scores(split):
    write_bitmask(split / "pred" / "b.png", [])
    save(split, load(split)[:1])
    assert 45 < score(split)["AP"] < 55
    write_bitmask(split / "pred" / "a.png", [])
    save(split, [{"name": "a.jpg"}])
    assert score(split)["AP"] == 0


def change(place, **entries):
    def apply(split):
        frames = load(split)
        frames[0]["labels"][place] |= entries
        save(split, [frames[0], *frames[1:]])

    return apply


def scores(content):
    return lambda split: (split / "scores.json").write_text(content)


def bitmask(*objects, size=SIZE):
    return lambda split: write_bitmask(split / "pred" / "a.png", objects, size)


def picture(pixels):
    return lambda split: Image.fromarray(pixels).save(split / "pred" / "a.png")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (change(1, index=None), r"Label 1 of frame 'a\.jpg' of the scores has index None: the number of its"),
        (change(1, index="7"), r"Label 1 of frame 'a\.jpg' of the scores has index '7'"),
        (change(1, index=7.5), "has index 7.5"),
        (change(1, index=300), "Label 1 of frame 'a.jpg' of the scores has index 300, which is there twice"),
        (change(1, score=None), r"^Label 1 of frame 'a\.jpg' has score None"),
        (change(1, score=float("nan")), "has score nan"),
        (scores("[]"), "scores of bitmasks are no frames"),
        (scores("[3]"), "scores of bitmasks are no frames"),
        (scores('[{"image_id": 1, "score": 0.5}]'), "scores of bitmasks are no frames"),
        (scores('[{"name": "a.jpg", "labels": 3}]'), "labels of frame 'a.jpg' must be a list"),
        (
            scores('[{"name": "a.jpg"}, {"name": "a.png"}]'),
            r"Frame 1 has name 'a\.png', which is there twice",
        ),
        (scores('[{"name": "a.jpg", '), r"scores\.json' is not complete JSON"),
        (lambda split: (split / "scores.json").unlink(), "No scores file"),
        (
            scores('[{"name": "a.jpg", "labels": [{"index": 1, "score": 1}]}, {"name": "b.jpg"}]'),
            r"No score belongs to an object .*'a\.jpg' has scores of index 1, .* objects 7, 300\. An index",
        ),
        (
            lambda split: save(split, load(split)[1:]),
            r"'.*a\.png' has 2 objects, but the file of scores has no frame 'a\.jpg'",
        ),
        (
            lambda split: (split / "pred" / "b.png").unlink(),
            r"1 of 2 images have no bitmask in '.*pred', the first is 'b\.png': predict them",
        ),
        (bitmask((9, 0, 300, LEFT)), r"a\.png' is no bitmask: category 9 is beyond 8"),
        (bitmask((CAR, 0, 0, LEFT)), r"a\.png' is no bitmask: pixels of category 3 have object number 0"),
        (
            bitmask((CAR, 0, 300, LEFT), (CAR + 1, 0, 300, RIGHT)),
            r"a\.png' is no bitmask: object 300 has two categories or flags",
        ),
        (bitmask(size=(61, 80)), r"Bitmask '.*a\.png' has size \[61, 80\], not \[60, 80\] like its frame"),
        (
            picture(np.zeros((*SIZE, 3), np.uint8)),
            r"a\.png' is no bitmask: it must be an RGBA image, not RGB",
        ),
        (picture(np.zeros(SIZE, np.uint8)), "must be an RGBA image, not L"),
        (lambda split: (split / "pred" / "a.png").write_bytes(b"\x89PNG"), r"a\.png' cannot be read"),
    ],
)
def test_what_is_wrong_is_named(split, break_it, message):
    break_it(split)
    with pytest.raises(ValueError, match=message):
        score(split)


def test_scores_and_a_folder_go_together(split):
    with pytest.raises(ValueError, match=r"pred' is a folder, whose bitmasks hold no scores: .*--scores"):
        score(split, scores=None)
    with pytest.raises(ValueError, match=r"belong to a folder of bitmasks: leave --scores out"):
        evaluate(split / "gt", [], "bdd100k", "mask", scores=split / "scores.json")
    with pytest.raises(ValueError, match=r"Protocol coco has no scores in a file of their own"):
        evaluate(split / "gt", [], "coco", "mask", scores=split / "scores.json")
    with pytest.raises(ValueError, match=r"None of the 4 labels has an rle: .* with --scores"):
        evaluate(split / "gt", split / "scores.json", "bdd100k", "mask")
    with pytest.raises(ValueError, match=r"No bitmask '\*\.png' in"):
        evaluate(split / "gt", split, "bdd100k", "mask", scores=split / "scores.json")


# ---- frames with run lengths


def encode(x0, y0, x1, y1, size=SIZE):
    """A box as run lengths, without an image."""
    height, width = size
    stops = np.stack([np.arange(x0, x1) * height + y0, np.arange(x0, x1) * height + y1], axis=1).ravel()
    counts = np.diff(stops, prepend=0, append=height * width).tolist()
    rle = mask_utils.frPyObjects({"size": list(size), "counts": counts}, height, width)
    return {"size": list(size), "counts": rle["counts"].decode()}


def label(box, size=SIZE, **entries):
    return {"category": "car", "score": 0.9, "rle": encode(*box, size), **entries}


def test_frames_may_be_named_after_photos_or_bitmasks(split):
    labels = [label(LEFT), label(RIGHT)]
    frames = [{"name": "a.png", "labels": labels}, {"name": "b.jpg", "labels": labels}]
    assert evaluate(split / "gt", frames, "bdd100k")["AP"] == FULL
    assert evaluate(frames, frames, "bdd100k")["AP"] == FULL
    twice = [*frames, {"name": "b.png", "labels": []}]
    for gt, predictions in ((split / "gt", twice), (twice, frames)):
        with pytest.raises(ValueError, match=r"Frame 2 has name 'b\.png', which is there twice"):
            evaluate(gt, predictions, "bdd100k")


def test_labels_without_run_lengths_are_left_out_and_counted(split, caplog):
    """As the toolkit does: labels of boxes stand among them."""
    boxes = [label(LEFT, rle=None, score=None, category="traffic sign", box2d={"x1": 1}), {}]
    labels = [*boxes, label(LEFT), label(RIGHT)]
    frames = [{"name": "a.jpg", "labels": labels}, {"name": "b.jpg", "labels": labels}]
    assert evaluate(split / "gt", frames, "bdd100k", "mask")["AP"] == FULL
    note = "labels without rle, left out: 4, label 0 of frame 'a.jpg' for one"
    assert [record.getMessage() for record in caplog.records] == [note]
    caplog.clear()
    assert evaluate(frames, frames, "bdd100k", "mask")["AP"] == FULL
    assert [record.getMessage() for record in caplog.records] == [note.replace("4", "8")]
    boxes[1] |= {"poly2d": [{"vertices": []}]}
    with pytest.raises(ValueError, match=r"Label 1 of frame 'a\.jpg' has no rle, but poly2d: give"):
        evaluate(split / "gt", frames, "bdd100k")


def test_a_frame_may_claim_any_size():
    """Hundreds of millions of pixels: memory and time go with the masks."""
    size = (24_000, 30_000)
    boxes = [(10, 10, 90, 90), (29_000, 23_000, 29_100, 23_100)]
    truth = [label(box, size, score=None) for box in boxes]
    guesses = [label(box, size, score=0.5 + n / 10) for n, box in enumerate(boxes)]
    # Covers half of the first, and little of the second
    guesses.append(label((0, 0, 50, 23_005), size, score=0.55, category="bus"))
    gt, predictions = ([{"name": "a.jpg", "labels": labels}] for labels in (truth, guesses))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = evaluate(gt, predictions, "bdd100k", "mask")
    assert figures["AP/car"] == FULL and 40 < figures["nonoverlap/AP/car"] < 60
    # Covers all, and half of it in another frame
    whole, half = (label((0, 0, columns, 24_000), size) for columns in (30_000, 15_000))
    for guess, ap in ((whole, FULL), (half, pytest.approx(0))):
        frames = [[{"name": "a.jpg", "labels": [one]}] for one in (whole, guess)]
        assert evaluate(*frames, "bdd100k", "boundary")["AP"] == ap
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000
