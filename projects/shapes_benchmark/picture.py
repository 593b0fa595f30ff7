"""Draw one object, enlarged at its outline: the image, the ground truth and every model, side by side.

    python projects/shapes_benchmark/picture.py GT IMAGES OUTPUT "Mask R-CNN=a.json" RefineMask=b.json

takes a COCO-format file, the folder of its images, and results files. The object is a typical one, not one
that flatters: of every model its Boundary IoU is as near as can be to the mean of that model.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as mask_utils

from crispmask.analysis.gallery import Pairs, found_by_all
from crispmask.analysis.image_files import ImageFiles
from crispmask.analysis.object_quality import assess_objects
from crispmask.analysis.views import Mask, Window, most_different
from crispmask.evaluation.formats.coco import load_dataset, read_ground_truth, read_predictions
from crispmask.visualization.overlay import paint_mask

# Pixels: of a panel, between panels, of the label below, and of the lines
SIDE, GAP, LABEL, LINE, HALO = 320, 12, 72, 4.0, 6.0
COLOR, DARK, PAPER, SOFT = (255, 230, 0), (0, 0, 0), (22, 25, 29), (180, 187, 196)
# Pixels of an object that has enough of an outline to be shown
MIN_AREA = 1500
MOST_BYTES = 150_000


def main(words: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ground_truth", type=Path, metavar="GT")
    parser.add_argument("images", type=Path, metavar="IMAGES")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="a .webp or .png file")
    parser.add_argument("results", nargs="+", metavar="NAME=RESULTS")
    parser.add_argument("--annotation", type=int, help="id of the object (default: a typical one)")
    args = parser.parse_args(words)
    results = {name: Path(path) for name, path in (pair.split("=", 1) for pair in args.results)}
    picture = compare(args.ground_truth, args.images, results, args.annotation)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_bytes(small(picture, args.output.suffix))
    print(f"{args.output}: {picture.width} x {picture.height}, {args.output.stat().st_size / 1000:.0f} kB")


def compare(
    ground_truth: Path, images: Path, results: Mapping[str, Path], annotation: int | None = None
) -> Image.Image:
    """The panels of one object.

    Args:
        ground_truth: COCO-format JSON; ``images``: folder of its images.
        results: results JSON by the name of the model.
        annotation: id of the object; None: a typical one.
    """
    data = load_dataset(ground_truth)
    gt = read_ground_truth(data)
    objects = {name: assess_objects(gt, read_predictions(path, gt), 0.02) for name, path in results.items()}
    found = found_by_all(objects)
    if annotation is None:
        pairs = typical([p for p in found if first(p).annotation["area"] >= MIN_AREA])
    else:
        pairs = next(p for p in found if first(p).annotation["id"] == annotation)
    shown = first(pairs).annotation
    image = ImageFiles(data["images"], str(images), gt.sizes).read(shown["image_id"])
    masks = {name: decode(pair.prediction) for name, pair in pairs.items()}
    window = most_different([decode(shown), *masks.values()])
    zoom = f"{window.width} x {window.height} pixels"
    drawn = [labelled(panel(image, None, window), "Image", zoom)]
    drawn.append(
        labelled(panel(image, decode(shown), window), "Ground truth", gt.class_names[shown["category_id"]])
    )
    for name, mask in masks.items():
        figure = f"Boundary IoU {100 * pairs[name].boundary_iou:.0f}"
        drawn.append(labelled(panel(image, mask, window), name, figure))
    return beside(drawn)


def first(pairs: Pairs):
    """Any pair of an object: they share its annotation."""
    return next(iter(pairs.values()))


def decode(row: Mapping) -> Mask:
    return mask_utils.decode(row["segmentation"]).astype(bool)


def typical(found: Sequence[Pairs]) -> Pairs:
    """The object whose Boundary IoU of every model is the nearest to the mean of that model."""
    values = np.array([[pair.boundary_iou for pair in pairs.values()] for pairs in found])
    return found[int(np.abs(values - values.mean(axis=0)).sum(axis=1).argmin())]


def panel(image: np.ndarray, mask: Mask | None, window: Window) -> Image.Image:
    """A window of an image, (SIDE, SIDE) pixels, with the outline of a mask."""
    scale = -(-SIDE // window.width)
    # A mask that goes on beyond the window has no outline at its rim
    rim = 8
    padded = np.pad(image, ((rim, rim), (rim, rim), (0, 0)), mode="edge")
    rows, columns = (slice(start, start + window.width + 2 * rim) for start in (window.y, window.x))
    part = Image.fromarray(padded[rows, columns])
    pixels = np.array(part.resize((part.width * scale, part.height * scale), Image.Resampling.BICUBIC))
    if mask is not None:
        inside = np.pad(mask, rim, mode="edge")[rows, columns]
        for color, width in ((DARK, HALO), (COLOR, LINE)):
            paint_mask(pixels, inside, color, scale, fill_opacity=0, line_width=width)
    cut = slice(rim * scale, (rim + window.width) * scale)
    return Image.fromarray(pixels[cut, cut]).resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def labelled(picture: Image.Image, name: str, figure: str) -> Image.Image:
    """A panel with two lines below, light on dark whatever the page is."""
    result = Image.new("RGB", (SIDE, SIDE + LABEL), PAPER)
    result.paste(picture)
    draw = ImageDraw.Draw(result)
    for text, size, y, color in ((name, 27, 24, (255, 255, 255)), (figure, 21, 52, SOFT)):
        draw.text((SIDE / 2, SIDE + y), text, fill=color, font=ImageFont.load_default(size), anchor="mm")
    return result


def beside(panels: Sequence[Image.Image]) -> Image.Image:
    """Panels in a row; between them it is transparent, for light and dark pages."""
    result = Image.new("RGBA", (len(panels) * (SIDE + GAP) - GAP, panels[0].height))
    for number, drawn in enumerate(panels):
        result.paste(drawn, (number * (SIDE + GAP), 0))
    return result


def small(picture: Image.Image, suffix: str) -> bytes:
    """The file, of the best quality that takes at most ``MOST_BYTES``."""
    for quality in (90, 80, 65, 50):
        buffer = io.BytesIO()
        if suffix == ".webp":
            picture.save(buffer, "WEBP", quality=quality, method=6)
        else:
            picture.quantize(round(256 * quality / 90), Image.Quantize.FASTOCTREE).save(
                buffer, "PNG", optimize=True
            )
        if buffer.tell() <= MOST_BYTES:
            break
    return buffer.getvalue()


if __name__ == "__main__":
    main()
