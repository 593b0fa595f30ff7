"""A headless Chromium that the machine has, and pages to open in it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest

from crispmask.analysis.page import Number, Table, render
from crispmask.cli import main
from crispmask.data.shapes import json_path, write_shapes

ROOT = Path(__file__).parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


def find_chromium() -> str | None:
    """``$CHROMIUM``, or the first that is on the path."""
    return next(filter(None, map(shutil.which, (os.environ.get("CHROMIUM") or "", *NAMES))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    """Playwright's handle of it."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = find_chromium()
    if path is None:
        pytest.skip("there is no Chromium on this machine (on Debian and Ubuntu: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where they are kept: ``$CI_ARTIFACTS``, or ``output/browser``."""
    folder = Path(os.environ.get("CI_ARTIFACTS") or ROOT / "output" / "browser")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pages of ``crispmask analyze boundary`` and of the demo; the masks are moved true ones."""
    folder = tmp_path_factory.mktemp("pages")
    write_shapes(folder / "shapes", "val", count=4, size=128, seed=0)
    truth, images = json_path(folder / "shapes", "val"), folder / "shapes" / "val"
    results = {name: folder / f"{name}.json" for name in ("Mask R-CNN", "RefineMask", "Mask Transfiner")}
    gt = json.loads(truth.read_text())
    gt["categories"][0]["name"] = HOSTILE
    truth.write_text(json.dumps(gt))
    for step, path in enumerate(results.values()):
        path.write_text(json.dumps([moved(row, 2 - step) for row in gt["annotations"] if not row["iscrowd"]]))
    first, *_, last = results.values()
    words = [
        "analyze",
        "boundary",
        truth,
        first,
        last,
        "--images",
        images,
        "--output",
        folder,
        "--worst",
        "2",
    ]
    assert main(list(map(str, words))) == 0
    return {
        "analysis": folder / "report.html",
        "demo": demo_page(folder / "demo.html", truth, images, results),
    }


def moved(row: dict, pixels: int) -> dict:
    """A prediction, and what it misses and has in excess."""
    mask = np.roll(mask_util.decode(row["segmentation"]), pixels, axis=1)
    rle = mask_util.encode(np.asfortranarray(mask))
    segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    kept = {key: row[key] for key in ("image_id", "category_id")}
    return {**kept, "score": 0.9, "segmentation": segmentation}


def demo_page(path: Path, truth: Path, images: Path, results: dict[str, Path]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "projects" / "shapes_benchmark"))
        import report

        del sys.modules["report"]
    speed = dict(zip(results, [(0.1, 12.5), (0.2, 9.5), (0.3, float("nan"))], strict=True))
    rows = [[name, ap, Number(seconds, f"{seconds:.3f}")] for name, (seconds, ap) in speed.items()]
    table = Table("Figures of all models", ["model", "Boundary AP", "s / image"], rows)
    pictures = report.outlines(truth, images, results)
    path.write_text(render(report.build_page(pictures, table, speed, "a machine")))
    return path
