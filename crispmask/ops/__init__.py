"""Boundary and quadtree ops: tensors in, tensors out, the same numbers on every device.

Shape legend of the package: B images, R RoIs (or masks), N nodes of all RoIs together, C channels, H and W rows
and columns, S the side of a square RoI grid, L levels, coarsest first. Only torch is imported; Triton is looked
for on the first CUDA call.
"""

from crispmask.ops.boundary import boundary_band, mask_boundary

__all__ = ["boundary_band", "mask_boundary"]
