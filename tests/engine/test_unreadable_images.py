"""Training images that cannot be read: the run stops with their names, or skips and counts them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from crispmask.engine import Trainer, UserError
from crispmask.engine.checks import check_training_options
from crispmask.errors import DataError
from tests.engine.tiny_training import NO_TEST, tiny_config

NAME = "crispmask_test_damaged"


@pytest.fixture
def damaged(shapes_root: Path, tmp_path: Path) -> Iterator[Path]:
    """A data set of four images, of which one is cut short."""
    dicts = DatasetCatalog.get("shapes_train")
    path = tmp_path / "cut.png"
    path.write_bytes(Path(dicts[1]["file_name"]).read_bytes()[:200])
    dicts[1]["file_name"] = str(path)
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).set(thing_classes=list(MetadataCatalog.get("shapes_train").thing_classes))
    yield path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def train(folder: Path, *opts: str) -> Trainer:
    more = ("DATASETS.TRAIN", f"('{NAME}',)", "OUTPUT_DIR", str(folder), *NO_TEST)
    trainer = Trainer(tiny_config(*more, *opts))
    trainer.train()
    return trainer


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_run_stops_with_the_name(
    damaged: Path, tmp_path: Path, workers: str, caplog: pytest.LogCaptureFixture
) -> None:
    period = ("SOLVER.MAX_ITER", "9", "SOLVER.CHECKPOINT_PERIOD", "1")
    with pytest.raises(DataError) as caught:
        train(tmp_path / "run", *period, "DATALOADER.NUM_WORKERS", workers)
    assert str(caught.value).startswith(f"Image file '{damaged}' cannot be read: ")
    assert "\n" not in str(caught.value)
    assert "Traceback" not in caplog.text and "Exception during training" not in caplog.text


@pytest.mark.parametrize("workers", ["0", "2"])
def test_skipped_images_are_named_and_counted(
    damaged: Path, tmp_path: Path, workers: str, caplog: pytest.LogCaptureFixture
) -> None:
    skip = ("CRISPMASK.UNREADABLE_IMAGES", "skip", "SOLVER.CHECKPOINT_PERIOD", "4", "SOLVER.BASE_LR", "1e-9")
    trainer = train(tmp_path / "run", *skip, "SOLVER.MAX_ITER", "8", "DATALOADER.NUM_WORKERS", workers)
    skips = trainer.unreadable.skips
    # 16 images were drawn, four at a time in any order: each of them four times
    assert skips == 4
    records = [record for record in caplog.records if record.name.startswith("crispmask")]
    messages = [record.getMessage() for record in records]
    named = [message for message in messages if "Another image takes its place" in message]
    assert len(named) == 1 and str(damaged) in named[0]
    counted = [message for message in messages if "took their place" in message]
    assert len(counted) == 2 and str(damaged) in counted[-1]
    assert counted[-1].startswith(f"1 image file(s) could not be read, and others took their place {skips} ")
    written = json.loads((tmp_path / "run" / "metrics.json").read_text().splitlines()[-1])
    assert written["unreadable_images"] == skips


def test_other_words_for_it_are_refused() -> None:
    with pytest.raises(UserError, match="UNREADABLE_IMAGES 'ignore' is unknown: give stop or skip"):
        check_training_options(tiny_config("CRISPMASK.UNREADABLE_IMAGES", "ignore"))
