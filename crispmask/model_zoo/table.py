"""MODEL_ZOO.md, made from the registry: ``python -m crispmask.model_zoo > MODEL_ZOO.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crispmask.first_model import convert_command, converted_file
from crispmask.heads import heads
from crispmask.model_list import Figures, Published, ZooEntry, entry, names, published

NOT_MEASURED = "not measured"
IN_DEMO = "by the [shapes benchmark](projects/shapes_benchmark): [README.md](README.md)"
DATASETS = {
    "coco_2017_val": "COCO val",
    "coco_2017_test-dev": "COCO test-dev",
    "lvis_v0.5_val_cocofied": "COCO val AP*",
    "lvis_v1_val": "LVIS v1 val",
    "lvis_v0.5_val": "LVIS v0.5 val",
    "cityscapes_instances_val": "Cityscapes val",
    "bdd100k_ins_seg_val": "BDD100K val",
}
TASKS = {"segm": "", "bbox": "box ", "boundary": "boundary ", "segm_coco": ""}
# Of folders of configs that belong to no head
TITLES = {
    "baselines": "Mask R-CNN, the baseline",
    "shapes": "Generated shapes, for a CPU",
}

# {name}, {weights}, ...: of a checkpoint that its authors offer
INTRODUCTION = """\
# Model zoo

Every model that CrispMask has a config for. Figures are AP in percent, of masks where nothing else is said;
AP* is that of COCO's images with LVIS's more exact annotations (`lvis_v0.5_val_cocofied`).

- **published by the authors**: what their tables say of their model, trained and measured with their code;
- **converted**: measured with CrispMask, on the authors' checkpoint after `crispmask convert`;
- **trained here**: measured with CrispMask, on a model that was trained with CrispMask.

`crispmask verify CONFIG WEIGHTS` measures a checkpoint and prints it beside what was published. The same as a
library:

```python
from crispmask import model_zoo

model = model_zoo.get("{name}", weights="{weights}")
model_zoo.entry("{name}").published[0].figures["{dataset}"]["{metric}"]  # {value}
```

A released checkpoint becomes one of these models by

```
{convert}
```

which finds the config that it belongs to, checks every name and shape against it, and prints both. The links
lead to Google Drive, from where large files must be downloaded in a browser; behind a link is the name of the
file in the authors' scripts, where they have it.

This file is made from `crispmask/figures.yaml` and those of the heads, by
`python -m crispmask.model_zoo > MODEL_ZOO.md`.
"""


def render() -> str:
    """Text of MODEL_ZOO.md."""
    groups: dict[str, list[ZooEntry]] = {}
    for name in names():
        groups.setdefault(name.split("/")[0], []).append(entry(name))
    titles = {**{head.name: head.title for head in heads()}, **TITLES}
    order = [*(folder for folder in titles if folder in groups), *(f for f in groups if f not in titles)]
    parts = [_introduction()]
    for folder in order:
        parts.append(f"## {titles.get(folder) or folder}\n")
        parts.append(
            _table(
                ("config", "published by the authors", "converted", "trained here"), map(_row, groups[folder])
            )
        )
    parts += [
        "## The authors' whole tables\n",
        "Models that CrispMask has a config for, and those beside them.\n",
    ]
    for source in dict.fromkeys(row.source for row in published()):
        rows = [row for row in published() if row.source == source]
        parts.append(f"### [{source}]({rows[0].link})\n")
        parts.append(_table(("method", "backbone", "schedule", "figures", "note"), map(_published_row, rows)))
    return "\n".join(parts)


def _introduction() -> str:
    row = next(row for row in published() if row.weights and row.config)
    dataset, values = next(iter(row.figures.items()))
    metric, value = next(iter(values.items()))
    return INTRODUCTION.format(
        name=row.config.removesuffix(".yaml"),
        weights=converted_file(row),
        convert=convert_command(row),
        dataset=dataset,
        metric=metric,
        value=value,
    )


def _row(item: ZooEntry) -> Sequence[str]:
    rows = [_cell(row) for row in item.published]
    trained = IN_DEMO if item.in_demo else NOT_MEASURED
    return (
        f"[{item.name.removesuffix('.yaml')}](configs/{item.name})",
        "<br>".join(rows) or "–",
        describe(item.converted) or (NOT_MEASURED if any(row.weights for row in item.published) else "–"),
        describe(item.trained) or trained,
    )


def _cell(row: Published) -> str:
    file = f", `{row.file}`" if row.file else ""
    link = f" ([weights]({row.weights}){file})" if row.weights else ""
    return describe(row.figures) + link + (f" – {row.note}" if row.note else "")


def _published_row(row: Published) -> Sequence[str]:
    speed = f"; {row.fps} images/s" if row.fps else ""
    return (row.method, row.backbone, row.schedule, describe(row.figures) + speed, row.note)


def describe(figures: Figures) -> str:
    """``COCO val 37.3, boundary 24.2; …``."""
    return "; ".join(
        f"{DATASETS.get(dataset, dataset)} "
        + ", ".join(f"{_metric(metric)}{value:.1f}" for metric, value in values.items())
        for dataset, values in figures.items()
    )


def _metric(metric: str) -> str:
    task, _, name = metric.partition("/")
    return TASKS[task] + ("" if name == "AP" else f"{name} ")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
