"""Weight files from addresses: fetched once, and compared with the hash that their name or their user states.

A download lies in ``$FVCORE_CACHE/crispmask/<host>/<digest of the address>/<name>``, so that no address gives
the file of another. What Detectron2 offers lies where its own programs look for it.

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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from string import punctuation
from textwrap import shorten
from urllib.parse import ParseResult, parse_qsl, quote, urlparse
from urllib.request import url2pathname

from detectron2.utils.file_io import PathManager
from iopath.common.download import download
from iopath.common.file_io import file_lock, get_cache_dir

from crispmask.checkpoint.integrity import UnreadableWeightsError
from crispmask.errors import UserError
from crispmask.network import limited_patience

logger = logging.getLogger(__name__)

_DETECTRON2 = ("detectron2://", "https://dl.fbaipublicfiles.com/detectron2/")
# Schemes of addresses that are fetched here; all others are known to Detectron2
_SCHEMES = ("http", "https", "ftp")
# What may stand behind the question mark of a weight file and is no part of its address
_QUESTIONS = {"sha256", "matching_heuristics"}
_HASHES = re.compile(r"(md5|sha-?\d*|hash|checksum)$", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_ZOO_NAME = re.compile(r"_([0-9a-f]{6})\.pkl$")
_HUB_NAME = re.compile(r"-([0-9a-f]{8,64})\.(?:pth|pt|pkl|safetensors)$")


def fetch_verified(path: str) -> Path:
    """The file on this machine of a path or an address, as :func:`fetch`, whose hash is the stated one.

    Raises:
        UserError: as :func:`verified_address`.
    """
    return fetch(verified_address(path))


def verified_address(path: str) -> str:
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
    if parsed.scheme in _SCHEMES and "@" in parsed.netloc:  # none of the messages may tell a password
        shown = parsed._replace(netloc=parsed.netloc.rpartition("@")[2], query="").geturl()
        raise UserError(
            f"Weight file '{shown}' is given with a user or a password, which are not sent: download it "
            "otherwise and give its path."
        )
    queries = parse_qsl(parsed.query, keep_blank_values=True)
    unknown = {key for key, _ in queries} - _QUESTIONS
    if parsed.scheme in _SCHEMES:  # a server may be asked for anything
        unknown = {key for key in unknown if _HASHES.match(key)}
    if unknown:
        raise UserError(f"Weight file '{path}' asks for {min(unknown)}: only ?sha256= is known.")
    stated = [digits for key, digits in queries if key == "sha256"]
    if len(stated) > 1 or not all(map(_SHA256.fullmatch, stated)):
        raise UserError(
            f"Weight file '{path}' states no SHA-256, which has 64 hexadecimal digits: give those that "
            f"sha256sum prints for the file, or leave ?sha256= out."
        )
    bare = _without_questions(parsed, _QUESTIONS)
    kind, digits = ("sha256", stated[0]) if stated else _hash_in_name(bare)
    if digits or parsed.scheme:
        _compare(bare, kind, digits.lower())
    return _without_questions(parsed, {"sha256"})


def fetch(path: str) -> Path:
    """The file on this machine of a path or an address, which is downloaded once.

    Args:
        path: with or without ``?sha256=``, which is not looked at.

    Raises:
        UserError: there is no such address, or no way to it.
    """
    parsed = urlparse(path)
    if parsed.scheme == "file":
        return Path(url2pathname(parsed.path))
    try:
        with limited_patience():
            if parsed.scheme in _SCHEMES and not path.startswith(_DETECTRON2):
                return _download(parsed)
            address = parsed._replace(query="").geturl()
            local = PathManager.get_local_path(address)
    except Exception as error:  # each of the path handlers raises its own kinds
        reason = shorten(str(error), 160, placeholder=" ...").rstrip(".") or type(error).__name__
        raise UserError(
            f"Weight file '{path}' cannot be fetched ({reason}): download it otherwise and give its path."
        ) from error
    if local == address and "://" in path:
        raise UserError(
            f"Weight file '{path}' has an address of a kind that is not read here: download it otherwise and "
            "give its path."
        )
    return Path(local)


@contextmanager
def naming_download(path: str) -> Iterator[None]:
    """Say of a file that is read here and broken that it is to be deleted, if it is a download.

    Args:
        path: as it was given.
    """
    try:
        yield
    except UnreadableWeightsError as error:
        if not urlparse(path).scheme:
            raise
        raise UserError(
            f"{error} It was downloaded from {shorten(path, 300)}: delete it to have it fetched anew."
        ) from error


def _download(parsed: ParseResult) -> Path:
    """The file of an address. Who is killed in between leaves none under its name."""
    address = _without_questions(parsed._replace(fragment=""), _QUESTIONS)
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    host = _as_file_name(parsed.netloc.rpartition("@")[2]) or "none"
    folder = Path(get_cache_dir()) / "crispmask" / host / digest
    local = folder / (_as_file_name(parsed.path.rpartition("/")[2]) or "weights")
    if not local.is_file():
        with file_lock(str(local)):  # against the other processes of a run
            if not local.is_file():
                download(_with_escapes(address), str(folder), filename=local.name)
    return local


def _with_escapes(address: str) -> str:
    """An address as a server takes it: blanks and letters beyond ASCII as ``%20``; what is escaped stays."""
    parsed = urlparse(address)
    path, query = (quote(part, safe=punctuation) for part in (parsed.path, parsed.query))
    return parsed._replace(path=path, query=query).geturl()


def _as_file_name(text: str) -> str:
    return re.sub(r"[^\w.%+-]", "_", text)[-200:].lstrip(".")


def _without_questions(parsed: ParseResult, keys: set[str]) -> str:
    """The address without some of what stands behind its question mark; the rest as it was written."""
    kept = [part for part in parsed.query.split("&") if part.partition("=")[0] not in keys]
    return parsed._replace(query="&".join(kept)).geturl()


def _hash_in_name(address: str) -> tuple[str, str]:
    """Kind and first digits of the hash that the name of a download states; no digits: none."""
    path = urlparse(address)._replace(query="", fragment="").geturl()
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
        mark = "&" if urlparse(path).query else "?"
        logger.info(
            "'%s' states no hash. To have it checked from now on: %s%ssha256=%s", path, path, mark, digest
        )


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
