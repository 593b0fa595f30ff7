"""Hashes of weight files: a download is compared with the one that its name or its user states.

There are three ways for a hash to be known. ``PATH?sha256=<64 hex digits>`` states it. Detectron2's model zoo
ends the names of its models in the start of their MD5 (``model_final_a54504.pkl``). PyTorch's hub, and many
that follow it, end theirs in the start of their SHA-256 (``resnet50-11ad3fa6.pth``). Detectron2's ImageNet
backbones (``R-50.pkl``) state none, and none is published: their hash is logged, so that it can be stated
from then on.
"""

from __future__ import annotations

import hashlib
import logging
import re
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from urllib.parse import parse_qsl, urlencode, urlparse

from detectron2.utils.file_io import PathManager

from crispmask.errors import UserError

logger = logging.getLogger(__name__)

_DETECTRON2 = ("detectron2://", "https://dl.fbaipublicfiles.com/detectron2/")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_ZOO_NAME = re.compile(r"_([0-9a-f]{6})\.pkl$")
_HUB_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|pkl|safetensors)$")


def check_hash(path: str) -> str:
    """Fetch a weight file, if it is an address, and compare its hash with the stated one.

    Args:
        path: file or address, with or without ``?sha256=<64 hex digits>``.

    Returns:
        ``path`` without the hash.

    Raises:
        UserError: the file cannot be fetched, has another hash, or the address asks for something unknown.
    """
    if not path:
        return path
    try:
        parsed = urlparse(path)
    except ValueError as error:
        raise UserError(f"Weight file '{path}' has no valid address: {error}: correct it.") from error
    queries = parse_qsl(parsed.query, keep_blank_values=True)
    if unknown := {key for key, _ in queries} - {"sha256", "matching_heuristics"}:
        raise UserError(f"Weight file '{path}' asks for {min(unknown)}: only ?sha256= is known.")
    stated = [digits for key, digits in queries if key == "sha256"]
    if len(stated) > 1 or not all(map(_SHA256.fullmatch, stated)):
        raise UserError(
            f"Weight file '{path}' states no SHA-256, which has 64 hexadecimal digits: give those that "
            f"sha256sum prints for the file, or leave ?sha256= out."
        )
    bare = parsed._replace(query="").geturl()
    kind, digits = ("sha256", stated[0]) if stated else _hash_in_name(bare)
    if digits or parsed.scheme:
        _compare(bare, kind, digits.lower())
    others = [(key, value) for key, value in queries if key != "sha256"]
    return parsed._replace(query=urlencode(others)).geturl()


def fetch(path: str) -> Path:
    """The file on this machine of a path or an address, which is downloaded once.

    Args:
        path: with or without questions, as ``?sha256=``, which are not looked at.

    Raises:
        UserError: there is no such address, or no way to it.
    """
    try:
        return Path(PathManager.get_local_path(urlparse(path)._replace(query="").geturl()))
    except Exception as error:  # each of the path handlers raises its own kinds
        reason = shorten(str(error), 160, placeholder=" ...").rstrip(".") or type(error).__name__
        raise UserError(
            f"Weight file '{path}' cannot be fetched ({reason}): download it otherwise and give its path."
        ) from error


def _hash_in_name(path: str) -> tuple[str, str]:
    """Kind and first digits of the hash that the name of a download states; no digits: none."""
    if urlparse(path).scheme:
        if path.startswith(_DETECTRON2) and (found := _ZOO_NAME.search(path)):
            return "md5", found[1]
        if (found := _HUB_NAME.search(path)) and not _is_date(found[1]):
            return "sha256", found[1]
    return "sha256", ""


def _is_date(digits: str) -> bool:
    """Whether eight digits are a day since 1990, as of ``model-20210812.pth``."""
    try:
        return len(digits) == 8 and datetime.strptime(digits, "%Y%m%d").year in range(1990, 2100)
    except ValueError:
        return False


def _compare(path: str, kind: str, digits: str) -> None:
    local = fetch(path)
    if not local.is_file():
        return  # on another machine of the run, which Detectron2 deals with
    digest = file_hash(local, kind)
    if digits and not digest.startswith(digits):
        raise UserError(
            f"Weight file '{local}' has {kind} {digest[: len(digits)]}, not {digits}: it is cut short or "
            f"another file; delete it and get it again."
        )
    if not digits:
        logger.info("'%s' states no hash. To have it checked from now on: %s?sha256=%s", path, path, digest)


def file_hash(path: Path, kind: str = "sha256") -> str:
    """Hex digits of the hash of a file.

    Args:
        path: file to read.
        kind: name of the hash in ``hashlib``.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
