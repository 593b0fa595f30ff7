"""Looking into the mask head: quadtrees in image coordinates, and the attention of chosen nodes."""

from __future__ import annotations

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from tiny_transfiner import tiny_config, tiny_model

from tests.refinemask.tiny_refinemask import infer, mapped, three_images
from tests.refinemask.tiny_refinemask import tiny_config as refinemask_config
from transfiner_d2.inspection import _numbered, inspect_quadtrees


def look(folder, choose=None, **keys):
    """Views of two images, whose output is 1.5 times as large as their input, and what the model returns."""
    cfg = tiny_config(INPUT__MIN_SIZE_TEST=64, **keys)
    model, batch = tiny_model(cfg).eval(), mapped(cfg, three_images(folder)[:2], is_train=False)
    return inspect_quadtrees(model, batch, choose), infer(model, batch)


def refined(quadtree) -> list[int]:
    return quadtree.refined.nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_instances_are_those_of_the_model(tmp_path, variant):
    images, results = look(tmp_path, VARIANT=variant)
    for image, result in zip(images, results, strict=True):
        assert set(image.instances.get_fields()) == set(result.get_fields())
        assert torch.equal(image.instances.pred_masks, result.pred_masks)
        assert len(image.views) == len(result) > 0
        assert image.instances.image_size == result.image_size


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_cells_lie_in_their_box_and_in_their_parent(tmp_path, variant):
    images, _ = look(tmp_path, VARIANT=variant, TOP_K=0)
    for image in images:
        for box, view in zip(image.instances.pred_boxes.tensor, image.views, strict=True):
            tree = view.quadtree
            assert len(tree) > 0 and tree.refined.all() and view.attention == []
            sides, cells = box[2:] - box[:2], tree.boxes[:, 2:] - tree.boxes[:, :2]
            torch.testing.assert_close(cells, sides / (8 << tree.levels)[:, None])
            assert (tree.boxes[:, :2] >= box[:2] - 1e-3).all() and (tree.boxes[:, 2:] <= box[2:] + 1e-3).all()
            children = tree.levels > 0
            assert torch.equal(tree.parents < 0, ~children)
            parents = tree.boxes[tree.parents[children]]
            assert torch.equal(tree.levels[tree.parents[children]], tree.levels[children] - 1)
            assert (tree.boxes[children, :2] >= parents[:, :2] - 1e-3).all()
            assert (tree.boxes[children, 2:] <= parents[:, 2:] + 1e-3).all()


def test_nodes_that_are_not_refined(tmp_path):
    (limited, *_), _ = look(tmp_path, MAX_NODES=5)
    assert all(len(refined(view.quadtree)) == 5 < len(view.quadtree) for view in limited.views)
    (skipped, *_), _ = look(tmp_path, SKIP_LEVELS=(2,))
    assert all(torch.equal(~v.quadtree.refined, v.quadtree.levels == 1) for v in skipped.views)
    (best, *_), _ = look(tmp_path, TOP_K=1)
    scores = best.instances.scores
    assert [len(view.quadtree) > 0 for view in best.views] == (scores == scores.max()).tolist()
    (none, *_), _ = look(tmp_path, DEPTH=0)
    assert all(len(view.quadtree) == 0 for view in none.views)


@pytest.mark.parametrize("keys", [{}, {"JOINT": False}, {"VARIANT": "released"}, {"ATTENTION": "nonlocal"}])
def test_attention_covers_the_sequence(tmp_path, keys):
    (image, _), _ = look(tmp_path, lambda tree: refined(tree)[::40], NUM_LAYERS=2, **keys)
    for box, view in zip(image.instances.pred_boxes.tensor, image.views, strict=True):
        tree = view.quadtree
        centres = (tree.boxes[:, :2] + tree.boxes[:, 2:]) / 2
        assert [found.node for found in view.attention] == refined(tree)[::40]
        for found in view.attention:
            torch.testing.assert_close(found.weights.sum(dim=1), torch.ones(2))
            assert found.weights.min() >= 0
            same = tree.refined & ((tree.levels == tree.levels[found.node]) | ("JOINT" not in keys))
            torch.testing.assert_close(found.points[found.levels >= 0], centres[same])
            assert torch.equal(found.levels[found.levels >= 0], tree.levels[same])
            references = found.points[found.levels < 0]
            if "ATTENTION" in keys:
                assert len(references) == 0
            else:
                assert len(references) == 16
                torch.testing.assert_close(references.mean(dim=0), (box[:2] + box[2:]) / 2)


def test_nodes_are_those_that_the_model_refined(tmp_path):
    cfg = tiny_config(INPUT__MIN_SIZE_TEST=64)
    model, batch = tiny_model(cfg).eval(), mapped(cfg, three_images(tmp_path)[:2], is_train=False)
    refiner, refined = model.roi_heads.mask_head.quadtree.refiner, []
    refiner.register_forward_pre_hook(lambda _, args: refined.append(args[2]))
    images = inspect_quadtrees(model, batch)
    (nodes,) = refined
    levels, rows, columns = nodes.level + 1, nodes.y, nodes.x
    trees = [view.quadtree for image in images for view in image.views]
    assert torch.equal(torch.cat([tree.levels for tree in trees]) + 1, levels)
    boxes = torch.cat([image.instances.pred_boxes.tensor for image in images])
    boxes = boxes.repeat_interleave(torch.tensor([len(tree) for tree in trees]), dim=0)
    sides = (boxes[:, 2:] - boxes[:, :2]) / (4 << levels)[:, None]
    corners = boxes[:, :2] + torch.stack([columns, rows], dim=1) * sides
    torch.testing.assert_close(torch.cat([tree.boxes for tree in trees])[:, :2], corners)


def test_only_some_instances(tmp_path):
    everything, _ = look(tmp_path)
    cfg = tiny_config(INPUT__MIN_SIZE_TEST=64)
    model, batch = tiny_model(cfg).eval(), mapped(cfg, three_images(tmp_path)[:2], is_train=False)
    asked = []
    some = inspect_quadtrees(model, batch, lambda tree: asked.append(len(tree)) or [], lambda found: [1])
    assert len(asked) == 2
    for image, expected in zip(some, everything, strict=True):
        lengths = [len(view.quadtree) for view in image.views]
        assert lengths[1] == len(expected.views[1].quadtree) > 0
        assert len(lengths) == len(expected.views) > 1 and sum(lengths) == lengths[1]


def test_numbers_are_where_the_detections_are():
    """Detectron2's post-processing picks them by a mask on the device of the boxes."""
    found = Instances((4, 4), pred_boxes=Boxes(torch.zeros(2, 4, device="meta")))
    (copy,) = _numbered([found])
    assert copy.number.device.type == "meta" and len(copy) == 2


def test_weights_give_what_attention_gives(tmp_path):
    """Weights times values are the output of the model's own attention in its first and last layer."""
    calls = []
    cfg = tiny_config(NUM_HEADS=1, NUM_LAYERS=2)
    model, batch = tiny_model(cfg).eval(), mapped(cfg, three_images(tmp_path)[1:2], is_train=False)
    layers = model.roi_heads.mask_head.quadtree.refiner.body.layers
    for layer in layers:
        layer.attention.register_forward_hook(lambda module, args, out: calls.append((module, args, out)))
    (image,) = inspect_quadtrees(model, batch, lambda tree: [len(tree) - 1])
    # The model ran first, in one packed batch; then one RoI after the other
    calls = calls[len(layers) :]
    assert len(calls) == len(layers) * len(image.views)
    for view, first in zip(image.views, range(0, len(calls), len(layers)), strict=True):
        (found,) = view.attention
        for weights, (module, args, out) in zip(
            found.weights, calls[first : first + len(layers)], strict=True
        ):
            values = module.project(*args[:2])[:, 2]
            # The last node of the tree is the last token of its sequence. The untrained backbone gives values
            # up to 200, so a sum near 0 is rounded as coarsely as its terms
            close = {"rtol": 0, "atol": 1e-6 * max(10, out[-1].abs().max())}
            torch.testing.assert_close(module.out_proj(weights @ values), out[-1], **close)


def test_mistakes_are_named(tmp_path):
    cfg = tiny_config(MAX_NODES=5)
    model, batch = tiny_model(cfg), mapped(cfg, three_images(tmp_path)[:1], is_train=False)
    with pytest.raises(ValueError, match="call model"):
        inspect_quadtrees(model, batch)
    with pytest.raises(ValueError, match="choose among those that are refined"):
        inspect_quadtrees(model.eval(), batch, lambda tree: [len(tree) - 1])
    with pytest.raises(ValueError, match="no TransfinerMaskHead"):
        inspect_quadtrees(build_model(refinemask_config()).eval(), batch)
    with pytest.raises(ValueError, match="no attention to follow"):
        inspect_quadtrees(tiny_model(tiny_config(REFINER="mlp")).eval(), batch, lambda tree: [0])
    assert not model.roi_heads.mask_head._forward_pre_hooks
