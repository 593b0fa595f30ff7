"""Cityscapes' instance AP by its own rules, and COCO's on the same masks."""
