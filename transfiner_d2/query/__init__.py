"""Mask Transfiner on a query-based detector, Deformable DETR or DETR."""
