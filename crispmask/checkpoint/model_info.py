"""What a model was trained on: stored with its weights, so that a weight file alone is enough to use it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import crispmask
from crispmask.checkpoint.download import fetch_verified, naming_download
from crispmask.checkpoint.files import read_beside_weights, write_atomically
from crispmask.visualization.colors import Color, distinct_color

if TYPE_CHECKING:
    from detectron2.config import CfgNode

# Key beside the weights, and file in OUTPUT_DIR
MODEL_INFO = "model_info"
MODEL_INFO_FILE = "model_info.json"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelInfo:
    """What a model was trained on.

    Attributes:
        config: YAML of the whole config as it ran.
        class_names: of the model's classes, in their order.
        category_ids: those of the annotation file of the training, in the same order: numbers or strings.
        colors: (R, G, B), 0 to 255, of each class.
        version: of crispmask.
    """

    config: str
    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    colors: tuple[Color, ...]
    version: str

    def to_dict(self) -> dict[str, Any]:
        """Strings, numbers and lists, which every format of weights and JSON can hold."""
        return {key: _as_lists(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> ModelInfo:
        """What :meth:`to_dict` made; other keys, as of a later version, are left out.

        Raises:
            ValueError: a value is not there or of another kind.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"it is a {type(values).__name__}")
        texts: dict[str, str] = {}
        for key in ("config", "version"):
            if not isinstance(text := values.get(key), str):
                raise ValueError(f"its {key} is no text")
            texts[key] = text
        names, ids, colors = (_rows(values, key) for key in ("class_names", "category_ids", "colors"))
        if not len(names) == len(ids) == len(colors):
            raise ValueError(
                f"it has {len(names)} class_names, {len(ids)} category_ids and {len(colors)} colors"
            )
        if not all(isinstance(name, str) for name in names):
            raise ValueError("its class_names are no texts")
        if not all(type(i) in (int, str) for i in ids) or len(set(ids)) < len(ids):
            raise ValueError("its category_ids are no numbers or texts, each once")
        if not all(map(_is_color, colors)):
            raise ValueError("its colors are not three numbers, 0 to 255, each")
        return cls(
            class_names=tuple(names), category_ids=tuple(ids), colors=tuple(map(tuple, colors)), **texts
        )


def describe_model(cfg: CfgNode) -> ModelInfo:
    """What the model of a config is trained on; its data sets are registered, and read if they are to be.

    Classes that no registered data set names are called by their index.
    """
    from crispmask.data.classes import registered_classes

    classes = registered_classes(cfg)
    return ModelInfo(
        config=cfg.dump(),
        class_names=tuple(str(name) for _, name in classes),
        category_ids=tuple(category_id for category_id, _ in classes),
        colors=tuple(distinct_color(index) for index in range(len(classes))),
        version=crispmask.__version__,
    )


def read_model_info(path: str | Path) -> ModelInfo | None:
    """What the model of a weight file was trained on.

    Args:
        path: file, URL or ``detectron2://`` name, as :func:`crispmask.checkpoint.load_weights` takes it.

    Returns:
        None where the file does not say, as one that another program wrote. What is said and cannot be
        understood is logged.

    Raises:
        UserError: the file cannot be fetched or read.
    """
    with naming_download(str(path)):
        return understand_model_info(str(path), read_beside_weights(fetch_verified(str(path)), MODEL_INFO))


def understand_model_info(path: str, stored: Any) -> ModelInfo | None:
    """What a weight file holds under ``MODEL_INFO``, as :func:`read_model_info` returns it.

    Args:
        path: of the file, for the log.
        stored: a mapping, or JSON; None: it holds nothing.
    """
    if stored is None:
        return None
    try:
        return ModelInfo.from_dict(json.loads(stored) if isinstance(stored, str) else stored)
    except (ValueError, RecursionError) as error:
        logger.warning("'%s': what it says of its training is left out: %s.", path, error)
        return None


def write_model_info(info: ModelInfo, folder: str | Path) -> Path:
    """Write it to ``model_info.json`` in a folder.

    Raises:
        OSError: the file cannot be written.
    """
    path = Path(folder) / MODEL_INFO_FILE
    text = json.dumps(info.to_dict(), indent=1, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(text.encode()))
    return path


def _as_lists(value: Any) -> Any:
    return [_as_lists(part) for part in value] if isinstance(value, tuple) else value


def _rows(values: Mapping[str, Any], key: str) -> Sequence[Any]:
    if not isinstance(rows := values.get(key), list | tuple):
        raise ValueError(f"its {key} are no list")
    return rows


def _is_color(value: Any) -> bool:
    is_triple = isinstance(value, list | tuple) and len(value) == 3
    return is_triple and all(type(part) is int and 0 <= part <= 255 for part in value)
