"""Flags that several verbs have."""

from __future__ import annotations

import argparse


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
