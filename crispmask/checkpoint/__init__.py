"""Checkpoints: names of the released models turned into ours."""

from .convert import convert_state_dict

__all__ = ["convert_state_dict"]
