"""Cityscapes' label table, which cityscapesscripts holds: what is evaluated, and what is void."""

from __future__ import annotations

from crispmask.missing import explained_imports

with explained_imports():
    from cityscapesscripts.helpers.labels import labels

# Label id -> name of the classes that are evaluated, in the official order
CLASSES = {label.id: label.name for label in labels if label.hasInstances and not label.ignoreInEval}
LABEL_IDS = frozenset(label.id for label in labels)
VOID_IDS = tuple(label.id for label in labels if label.ignoreInEval and label.id >= 0)
