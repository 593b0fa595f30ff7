"""What is known of a weight file beside its tensors: the config of its model and the names of its classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from detectron2 import model_zoo
from detectron2.config import CfgNode

from crispmask.checkpoint.model_info import MODEL_INFO, understand_model_info
from crispmask.config import get_config
from crispmask.config_files import read_config_file, read_config_text
from crispmask.data.classes import are_index_names, registered_names
from crispmask.errors import UserError

# What Detectron2 and this package write beside their checkpoints
CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class Origin:
    """Where a weight file comes from.

    Attributes:
        source: who says it, in words; empty: nothing does.
        config: of the model, as far as it is known.
        class_names: of its classes, in the order of its rows; none: not known.
    """

    source: str = ""
    config: CfgNode = field(default_factory=CfgNode)
    class_names: tuple[str, ...] = ()

    def value(self, key: str) -> Any:
        """Value of ``SECTION.KEY``; None: not known."""
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return None
            node = node[part]
        return node


def origin_of(address: str, content: Mapping[str, Any]) -> Origin:
    """What a file says of itself, else its name in Detectron2's model zoo, else the config beside it.

    Args:
        address: path or address, as ``MODEL.WEIGHTS`` has it.
        content: as :func:`crispmask.checkpoint.read_weight_file` returns it.
    """
    if info := understand_model_info(address, content.get(MODEL_INFO)):
        config = _readable(lambda: read_config_text(info.config, address)) or CfgNode()
        return Origin("the file", config, () if are_index_names(info.class_names) else info.class_names)
    with suppress(ValueError):  # an address that is none is told where it is fetched
        parts = urlparse(address)
        found = _of_zoo(parts.path) or (None if parts.scheme else config_origin(Path(parts.path)))
        if found:
            return found
    return Origin()


def zoo_address(name: str) -> str:
    """Address of the weights of a config of Detectron2's model zoo; empty: there are none of that name."""
    with suppress(RuntimeError):
        return model_zoo.get_checkpoint_url(name.removesuffix(".yaml") + ".yaml")
    return ""


def config_origin(path: Path) -> Origin | None:
    """What the config beside a checkpoint says; None: there is none."""
    config_file = path.with_name(CONFIG_FILE)
    if not config_file.is_file():
        return None
    config = _readable(lambda: read_config_file(config_file))
    return config and _origin(f"'{config_file}'", config)


def _of_zoo(path: str) -> Origin | None:
    """By the last part of an address, which has a hash of the weights in it."""
    for name, suffix in _zoo_files():
        if suffix.endswith(f"/{Path(path).name}"):
            with suppress(UserError, RuntimeError, OSError, AssertionError, KeyError, ValueError):
                config = get_config(model_zoo.get_config_file(f"{name}.yaml"))
                return _origin(f"Detectron2's model zoo, {name}", config)
    return None


def _zoo_files() -> Iterator[tuple[str, str]]:
    """Configs of Detectron2's model zoo, without ``.yaml``, and the ends of their weights' addresses."""
    known = getattr(model_zoo.model_zoo, "_ModelZooUrls", None)
    yield from getattr(known, "CONFIG_PATH_TO_URL_SUFFIX", {}).items()


def _readable(read: Callable[[], dict[str, Any]]) -> CfgNode | None:
    """A config that somebody wrote; None where it cannot be read, for it may be of anything."""
    try:
        return CfgNode(read())
    except (UserError, AttributeError, AssertionError, TypeError, ValueError):
        return None


def _origin(source: str, config: CfgNode) -> Origin:
    names: tuple[str, ...] = ()
    with suppress(AttributeError, KeyError, TypeError):  # it need not have our keys
        names = registered_names(config)
    return Origin(source, config, names)
