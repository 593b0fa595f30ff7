"""One scene as each of the formats that ``crispmask data convert`` reads has it: a hole, two parts, a block.

Every outline runs along borders of pixels, so that polygons say the same as pixels.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 48, 64
CLASSES = ("Pött, groß", "lid")
Rectangle = tuple[int, int, int, int]
# Class, parts, holes
OBJECTS: tuple[tuple[int, list[Rectangle], list[Rectangle]], ...] = (
    (0, [(4, 4, 24, 24)], [(10, 10, 16, 18)]),
    (1, [(30, 4, 40, 12), (44, 6, 60, 16)], []),
    (0, [(30, 24, 45, 40)], []),
)
# The third has no objects
IMAGES = ("a.jpg", "night/b.png", "c.jpg")


def masks() -> list[np.ndarray]:
    """(H, W) bool of each object."""
    made = []
    for _, parts, holes in OBJECTS:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        for value, rectangles in ((True, parts), (False, holes)):
            for x0, y0, x1, y1 in rectangles:
                mask[y0:y1, x0:x1] = value
        made.append(mask)
    return made


def numbered(values: Sequence[int] = (1, 2, 3)) -> np.ndarray:
    """(H, W) with a value for each object, 0 elsewhere."""
    return sum(value * mask for value, mask in zip(values, masks(), strict=True))


def outline(x0: int, y0: int, x1: int, y1: int) -> list[int]:
    return [x0, y0, x1, y0, x1, y1, x0, y1]


def points(corners: Sequence[float]) -> list[list[float]]:
    return [list(pair) for pair in zip(corners[::2], corners[1::2], strict=True)]


def write_images(folder: Path, names: Sequence[str] = IMAGES) -> None:
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / name)


def write_text(path: Path, text: str, encoding: str = "utf-8-sig") -> None:
    """As a tool on Windows does it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))


def save(array: np.ndarray, path: Path, palette: bytes | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(array)
    if palette is not None:
        image.putpalette(palette)
    image.save(path)


def yolo_lines() -> list[str]:
    """Holes and parts joined by lines that go there and back, as Ultralytics does it."""
    lines = []
    for label, parts, holes in OBJECTS:
        rings = [outline(*rectangle) for rectangle in (*parts, *holes)]
        corners = rings[0] if len(rings) == 1 else [v for r in rings for v in (*r, *r[:2], *rings[0][:2])]
        shares = (value / (HEIGHT if i % 2 else WIDTH) for i, value in enumerate(corners))
        lines.append(f"{label} " + " ".join(f"{share:.6f}" for share in shares))
    return lines


def write_yolo(folder: Path) -> None:
    write_images(folder / "images/train", IMAGES[:2])
    write_images(folder / "images/val", IMAGES[2:])
    for name in IMAGES[:2]:
        write_text(folder / "labels/train" / Path(name).with_suffix(".txt"), "\n".join(yolo_lines()) + "\n")
    names = "".join(f"  {i}: '{name}'\n" for i, name in enumerate(CLASSES))
    write_text(folder / "data.yaml", f"path: .\ntrain: images/train\nval: images/val\nnames:\n{names}")


def png_text(mask: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def labelme_shapes() -> list[dict[str, Any]]:
    """The object with a hole as a mask, the parts of the second as a group."""
    shapes = []
    for index, (label, parts, holes) in enumerate(OBJECTS):
        common = {"label": CLASSES[label], "group_id": 7 if len(parts) > 1 else None, "flags": {}}
        for x0, y0, x1, y1 in parts:
            shape = {"shape_type": "polygon", "points": points(outline(x0, y0, x1, y1))}
            if holes:
                crop = png_text(masks()[index][y0:y1, x0:x1])
                shape = {"shape_type": "mask", "points": [[x0, y0], [x1 - 1, y1 - 1]], "mask": crop}
            shapes.append({**common, **shape})
    return shapes


def write_labelme(folder: Path, shapes: list[dict[str, Any]] | None = None) -> None:
    write_images(folder)
    for name in IMAGES:
        content = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [] if name == IMAGES[2] else labelme_shapes() if shapes is None else shapes,
            "imagePath": f"..\\elsewhere\\{Path(name).name}",
            "imageData": None,
            "imageHeight": HEIGHT,
            "imageWidth": WIDTH,
        }
        text = json.dumps(content, ensure_ascii=False, indent=2)
        write_text(folder / Path(name).with_suffix(".json"), text)


def voc_palette() -> bytes:
    """Written out for the first indices and the last, as VOC has them."""
    colors = [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]
    return bytes([*colors, *([77] * (765 - len(colors))), 224, 224, 192])


def write_voc(folder: Path) -> None:
    write_images(folder / "JPEGImages")
    classes = numbered([label + 1 for label, *_ in OBJECTS]).astype(np.uint8)
    for name in IMAGES:
        is_empty = name == IMAGES[2]
        for place, pixels in (
            ("SegmentationObject", numbered().astype(np.uint8)),
            ("SegmentationClass", classes),
        ):
            own = np.zeros_like(pixels) if is_empty else pixels.copy()
            own[0] = 255
            save(own, folder / place / Path(name).with_suffix(".png"), voc_palette())
    stems = "".join(f"{Path(name).with_suffix('')}\n" for name in IMAGES)
    write_text(folder / "ImageSets/Segmentation/train.txt", stems)
    lines = "background:0,0,0::\n" + f"{CLASSES[0]}:128,0,0::\n{CLASSES[1]}:0,128,0::\n"
    write_text(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + lines)


def cvat_runs(mask: np.ndarray) -> str:
    """Lengths by rows, background first."""
    flat = mask.reshape(-1)
    borders = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1).tolist(), flat.size]
    runs = [stop - start for start, stop in pairwise(borders)]
    return ", ".join(map(str, [0, *runs] if flat[0] else runs))


def cvat_shapes() -> str:
    """The object with a hole as a mask, the parts of the second as a group."""
    shapes = []
    for index, (label, parts, holes) in enumerate(OBJECTS):
        group = ' group_id="3"' if len(parts) > 1 else ""
        for x0, y0, x1, y1 in parts:
            common = f'label="{CLASSES[label]}" source="manual" occluded="0" z_order="0"{group}'
            if holes:
                runs = cvat_runs(masks()[index][y0:y1, x0:x1])
                box = f'left="{x0}" top="{y0}" width="{x1 - x0}" height="{y1 - y0}"'
                shapes.append(f'<mask {common} rle="{runs}" {box}></mask>')
            else:
                pairs = ";".join(f"{x:.2f},{y:.2f}" for x, y in points(outline(x0, y0, x1, y1)))
                shapes.append(f'<polygon {common} points="{pairs}"></polygon>')
    return "\n".join(shapes)


def write_cvat(folder: Path, shapes: str | None = None, encoding: str = "utf-8") -> None:
    write_images(folder / "images")
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    images = ""
    for index, name in enumerate(IMAGES):
        own = "" if name == IMAGES[2] else cvat_shapes() if shapes is None else shapes
        images += f'\n<image id="{index}" name="{name}" width="{WIDTH}" height="{HEIGHT}">\n{own}</image>'
    text = f"<annotations><meta><task><labels>{labels}</labels></task></meta>{images}</annotations>"
    write_text(folder / "annotations.xml", f'<?xml version="1.0" encoding="{encoding}"?>\n{text}', encoding)


def write_label_maps(folder: Path, dtype: type = np.uint16, suffix: str = ".png") -> None:
    write_images(folder / "images")
    for name in IMAGES:
        values = numbered((7, 300, 2) if dtype is not np.uint8 else (7, 30, 2)).astype(dtype)
        path = folder / "masks" / Path(name).with_suffix("")
        save(values * (name != IMAGES[2]), path.with_name(path.name + f"_mask{suffix}"))


def write_masks(folder: Path) -> None:
    """A folder for each image, and in it one for each class."""
    write_images(folder / "images")
    for name in IMAGES[:2]:
        for index, ((label, *_), mask) in enumerate(zip(OBJECTS, masks(), strict=True)):
            path = folder / "masks" / Path(name).with_suffix("") / CLASSES[label] / f"{index}.png"
            save(mask.astype(np.uint8) * 255, path)


WRITERS = {
    "yolo": write_yolo,
    "labelme": write_labelme,
    "voc": write_voc,
    "cvat": write_cvat,
    "label-map": write_label_maps,
    "masks": write_masks,
}
