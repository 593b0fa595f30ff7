"""Values of config keys that a model cannot be built with, each named with what it must be."""

from __future__ import annotations

from collections.abc import Iterable


def require(right: bool, key: str, value: object, wanted: str) -> None:
    """Raise a ValueError unless a value is ``right``.

    Args:
        right: whether it is.
        key: of the config, in full.
        value: what it has.
        wanted: what it must be, in words.
    """
    if not right:
        raise ValueError(f"{key} is {value!r}; it must be {wanted}.")


def require_choice(key: str, value: object, choices: Iterable[object]) -> None:
    """Raise a ValueError unless a value is one of some choices."""
    choices = list(choices)
    require(value in choices, key, value, f"one of: {', '.join(map(str, choices))}")
