"""Text as labelling tools write it: with Windows' line ends, byte order marks, and older encodings."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

# The longer marks first: that of UTF-32 begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARATION = re.compile(rb"^\s*<\?xml[^>]*?encoding\s*=\s*[\"']([\w.:-]+)[\"'][^>]*\?>")


def read_text(path: Path, encoding: str) -> str:
    """The text of a file: by its byte order mark, else in an encoding.

    Raises:
        ValueError: it has another encoding; the message names the flag.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    return _decoded(content, path, encoding)


def read_json(path: Path, encoding: str) -> Any:
    """What a JSON file holds.

    Raises:
        ValueError: it is no JSON, or has another encoding.
        OSError: it cannot be read.
    """
    try:
        return json.loads(read_text(path, encoding))
    except (RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"'{path}' is no complete JSON: {error}.") from None


def read_xml(path: Path, encoding: str) -> ElementTree.Element:
    """The root of an XML file, whose declaration goes before ``encoding``.

    Raises:
        ValueError: it is no XML, or has another encoding.
        OSError: it cannot be read.
    """
    content = path.read_bytes()
    declared = _DECLARATION.match(content)
    if declared is not None:
        encoding = declared[1].decode("ascii")
        content = content[declared.end() :]
    try:
        return ElementTree.fromstring(_decoded(content, path, encoding))
    except ElementTree.ParseError as error:
        raise ValueError(f"'{path}' is no complete XML: {error}.") from None


def _decoded(content: bytes, path: Path, encoding: str) -> str:
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), encoding)
    try:
        return content.decode(encoding)
    except LookupError:
        raise ValueError(f"There is no encoding '{encoding}': give one as utf-8, cp1252 or gbk.") from None
    except UnicodeDecodeError:
        raise ValueError(
            f"'{path}' is no text in {encoding}: say its encoding with --encoding, as cp1252 or gbk."
        ) from None
