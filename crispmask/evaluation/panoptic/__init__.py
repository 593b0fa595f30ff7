"""Panoptic quality of masks and boundaries."""
