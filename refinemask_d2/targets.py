"""Training target of RefineMask's semantic head; RoI targets are those of ``crispmask.modeling.groundtruth``.

Shapes: B images, H and W height and width.
"""

from __future__ import annotations

import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from crispmask.modeling.groundtruth import unite_masks


def semantic_target(
    instances: list[Instances], canvas: tuple[int, int], size: tuple[int, int], device: torch.device
) -> Tensor:
    """Foreground of whole images: the union of all ground-truth masks, whatever their class.

    Args:
        instances: B elements with all the ground truth of an image; ``gt_masks`` may be absent where there is
            no object.
        canvas: (H, W) of the padded batch in pixels; images lie in its top left corner.
        size: (h, w) of the result, that of the semantic head's feature map.
        device: where the result is put; the masks may be elsewhere, as polygons always are.

    Returns:
        (B, 1, h, w) float32 of 0 and 1.

    Source: released code; a cell is foreground where bilinear sampling of the union gives at least 0.5.
    """
    unions = [unite_masks(per_image).to(device) for per_image in instances]
    maps = torch.stack([F.pad(u, (0, canvas[1] - u.shape[1], 0, canvas[0] - u.shape[0])) for u in unions])
    resized = F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)
    return (resized >= 0.5).float()
