"""Scalabel frames, the JSON of BDD100K: a name and a list of labels for each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crispmask.evaluation.formats.checks import check_rows, check_size, short
from crispmask.evaluation.formats.findings import Findings

# (H, W) of BDD100K's images, for frames that say nothing
IMAGE_SIZE = (720, 1280)


def is_frames(data: Any) -> bool:
    """Whether the content of a JSON file is Scalabel's: a list of frames, or a dict with ``frames``.

    A frame has a name or labels; one that has neither may stand among them. Results have an ``image_id``.
    """
    if isinstance(data, Mapping):
        return "frames" in data
    if not isinstance(data, Sequence) or isinstance(data, (str, bytes)):
        return False
    rows = [row for row in data if isinstance(row, Mapping)]
    return any("name" in r or "labels" in r for r in rows) and not any("image_id" in r for r in rows)


def read_frames(data: Any) -> dict[str, tuple[tuple[int, int], Sequence[Mapping[str, Any]]]]:
    """Frame name -> (H, W) and labels.

    Raises:
        ValueError: something else than frames with names, each there once.
    """
    config = data.get("config") if isinstance(data, Mapping) else None
    frames = data["frames"] if isinstance(data, Mapping) else data
    check_rows(frames, "the frames")
    result, keys = {}, set()
    for index, frame in enumerate(frames):
        name = frame.get("name")
        if not isinstance(name, str) or frame_key(name) in keys:
            fault = "is there twice" if isinstance(name, str) else "is no name of an image"
            raise ValueError(f"Frame {index} has name {short(name)}, which {fault}: each needs its own.")
        keys.add(frame_key(name))
        labels = frame.get("labels") or []
        check_rows(labels, f"the labels of frame {short(name)}")
        result[name] = _frame_size(frame, config, labels, f"Frame {short(name)}"), labels
    return result


def frame_key(name: str) -> str:
    """The name without .jpg or .png: the photo and the bitmask of a frame are the same frame."""
    return name.removesuffix(".jpg").removesuffix(".png")


def label_place(index: int, frame: str) -> str:
    """What messages call a label."""
    return f"Label {index} of frame {short(frame)}"


def masked_labels(
    frames: Mapping[str, tuple[Any, Sequence[Mapping[str, Any]]]], findings: Findings
) -> dict[str, list[tuple[str, Mapping[str, Any]]]]:
    """Frame name -> what messages call a label, and the label, of those that have run lengths.

    Labels with neither run lengths nor polygons, as those of boxes, are left out, as the toolkit does.

    Raises:
        ValueError: a label has polygons instead, or none of all labels has run lengths.
    """
    found: dict[str, list[tuple[str, Mapping[str, Any]]]] = {name: [] for name in frames}
    total = 0
    for name, (_, labels) in frames.items():
        for index, label in enumerate(labels):
            total, where = total + 1, label_place(index, name)
            if label.get("rle") is not None:
                found[name].append((where, label))
            elif label.get("poly2d"):
                raise ValueError(
                    f"{where} has no rle, but poly2d: give the files of run lengths or bitmasks."
                )
            else:
                findings.add("labels without rle, left out", where)
    if total and not any(found.values()):
        raise ValueError(
            f"None of the {total} labels has an rle: give the file of run lengths or the folder of bitmasks; "
            "scores of bitmasks are given beside them, with --scores."
        )
    return found


def _frame_size(
    frame: Mapping[str, Any], config: Any, labels: Sequence[Mapping[str, Any]], where: str
) -> tuple[int, int]:
    """(H, W): as the frame says, or the whole file, or the first mask."""
    sizes = [frame.get("size"), config.get("imageSize") if isinstance(config, Mapping) else None]
    for size in sizes:
        if size is not None and not isinstance(size, Mapping):
            raise ValueError(f"{where} has size {short(size)}: a dict with height and width is needed.")
    for mask in [label["rle"] for label in labels if label.get("rle") is not None][:1]:
        of_mask = mask.get("size") if isinstance(mask, Mapping) else None
        if isinstance(of_mask, Sequence) and len(of_mask) == 2:
            sizes.append({"height": of_mask[0], "width": of_mask[1]})
    found = (check_size(size, where) for size in sizes if isinstance(size, Mapping))
    return next((size for size in found if size is not None), IMAGE_SIZE)
