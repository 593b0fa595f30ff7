"""Flags that several verbs have."""

from __future__ import annotations

import argparse
from urllib.parse import urlparse


def add_dilation_ratio(parser: argparse.ArgumentParser, default: float | None = None) -> None:
    """Declare ``--dilation-ratio``; without a default it is None, which stands for the protocol's."""
    parser.add_argument(
        "--dilation-ratio",
        type=float,
        default=default,
        metavar="SHARE",
        help="width of the boundary as a share of the image diagonal "
        f"(default: {'that of the protocol' if default is None else default})",
    )


def weight_path(weights: str) -> str:
    """Path of a weight file that is given as ``PATH`` or ``PATH?sha256=...``."""
    try:
        return urlparse(weights).path
    except ValueError:  # who fetches it says what is wrong with the address
        return weights
