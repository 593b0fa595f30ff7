"""Annotations of other formats, made a COCO-format file: one module a format, one for what is written.

Why there are readers of our own: docs/data_tools.md has what the libraries made of the same files.
"""
