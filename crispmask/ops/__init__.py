"""Boundary and quadtree ops: tensors in, tensors out, the same numbers on every device.

Shape legend of the package: B images, R RoIs (or masks), N nodes of all RoIs together, C channels, H rows and
W columns, S the side of a square RoI grid, L levels, coarsest first. Only torch is imported; Triton is
looked for on the first CUDA call.
"""

from crispmask.missing import explained_imports

with explained_imports():
    from crispmask.ops.boundary import boundary_band, erosion_residue, mask_boundary
    from crispmask.ops.gather import gather_nodes
    from crispmask.ops.incoherence import incoherence, incoherence_residual
    from crispmask.ops.packed import bucket_by_length, join_packed, packed_to_padded, padded_to_packed
    from crispmask.ops.quadtree import Nodes, build_quadtree
    from crispmask.ops.scatter import propagate, scatter_nodes

__all__ = [
    "Nodes",
    "boundary_band",
    "bucket_by_length",
    "build_quadtree",
    "erosion_residue",
    "gather_nodes",
    "incoherence",
    "incoherence_residual",
    "join_packed",
    "mask_boundary",
    "packed_to_padded",
    "padded_to_packed",
    "propagate",
    "scatter_nodes",
]
