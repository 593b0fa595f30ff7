"""The bridge computes what the library's own models compute, from weights in the library's names."""

from __future__ import annotations

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from tiny_query import MISSING_LIBRARY, query_config

from transfiner_d2.query.checkpoint import convert_transformers_detector
from transfiner_d2.query.detector import QueryDetector

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)
transformers = pytest.importorskip("transformers")

CHANNELS = (32, 40, 48)
LIBRARY = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 3, "num_labels": 3}
LIBRARY |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
LIBRARY |= {"encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
OURS = {"DIM": 64, "ENCODER_LAYERS": 2, "DECODER_LAYERS": 3, "NUM_HEADS": 4, "FFN_DIM": 48, "NUM_POINTS": 4}
SIZES = [(64, 96), (96, 50)]


def library_model(kind: str, **settings: object) -> torch.nn.Module:
    """A model of the library with drawn weights, none of them at its start."""
    backbone = transformers.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, *CHANNELS],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"] if kind == "DeformableDetr" else ["stage3"],
    )
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone, use_timm_backbone=False, **LIBRARY, **settings
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForObjectDetection")(config).eval()
    # The best tokens of both images are usable: the library would start queries from others as well
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def padded_images() -> tuple[torch.Tensor, torch.Tensor]:
    """(2, 3, 96, 96) images of ``SIZES`` and the mask of their pixels."""
    images = ImageList.from_tensors(
        [torch.rand(3, *size, generator=torch.Generator().manual_seed(2)) for size in SIZES], 96
    )
    mask = torch.zeros(2, 96, 96, dtype=torch.long)
    for index, (height, width) in enumerate(SIZES):
        mask[index, :height, :width] = 1
    return images.tensor, mask


def detector_for(model: torch.nn.Module, maps: dict[str, torch.Tensor], **keys: object) -> QueryDetector:
    """Ours, with the weights of the library's model."""
    cfg = query_config(IN_FEATURES=tuple(maps), **OURS, **keys)
    shapes = {
        name: ShapeSpec(channels=level.shape[1], stride=1 << int(name[1])) for name, level in maps.items()
    }
    detector = QueryDetector(cfg, shapes).eval()
    weights = convert_transformers_detector(model.state_dict(), box_refine=cfg.MODEL.QUERY.BOX_REFINE)
    detector.load_state_dict({name.removeprefix("proposal_generator."): v for name, v in weights.items()})
    return detector


@pytest.mark.parametrize(
    ("refine", "two_stage"),
    [(False, False), (True, False), (True, True)],
    ids=["plain", "refine", "two-stage"],
)
@torch.no_grad()
def test_deformable_detr(refine: bool, two_stage: bool) -> None:
    model = library_model(
        "DeformableDetr",
        num_feature_levels=3,
        num_queries=7,
        two_stage_num_proposals=7,
        with_box_refine=refine,
        two_stage=two_stage,
    )
    pixels, mask = padded_images()
    expected = model(pixels, pixel_mask=mask)
    maps = {f"p{3 + i}": level for i, (level, _) in enumerate(model.model.backbone(pixels, mask))}
    detector = detector_for(model, maps, NUM_QUERIES=7, BOX_REFINE=refine, TWO_STAGE=two_stage)
    decoded, encoded = detector._predict(ImageList(pixels, SIZES), maps)
    torch.testing.assert_close(decoded.logits[-1], expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded.boxes[-1], expected.pred_boxes, atol=1e-4, rtol=1e-4)
    assert decoded.boxes[-1].std(dim=1).max() > 1e-3  # ten times the tolerance above
    if two_stage:
        usable = encoded.usable
        logits, boxes = expected.enc_outputs_class[..., :1], expected.enc_outputs_coord_logits.sigmoid()
        torch.testing.assert_close(encoded.logits[0][usable], logits[usable], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoded.boxes[0][usable], boxes[usable], atol=1e-4, rtol=1e-4)
        assert 0 < usable.sum() < usable.numel()


@torch.no_grad()
def test_plain_detr() -> None:
    model = library_model("Detr", num_queries=7)
    pixels, mask = padded_images()
    expected = model(pixels, pixel_mask=mask)
    maps = {"p4": model.model.backbone(pixels, mask)[-1][0]}
    detector = detector_for(model, maps, NUM_QUERIES=7, DETECTOR="plain", CLASS_LOSS="softmax")
    decoded, encoded = detector._predict(ImageList(pixels, SIZES), maps)
    torch.testing.assert_close(decoded.logits[-1], expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(decoded.boxes[-1], expected.pred_boxes, atol=1e-4, rtol=1e-4)
    assert encoded is None and decoded.boxes[-1].std(dim=1).max() > 1e-3  # ten times the tolerance above


def test_names_of_version_4() -> None:
    """As the files on the hub have them."""
    model = library_model("DeformableDetr", num_feature_levels=3)
    state = model.state_dict()
    older = {
        name.replace(".o_proj.", ".out_proj.").replace(".mlp.fc", ".fc"): value
        for name, value in state.items()
    }
    assert older.keys() != state.keys()
    found, expected = convert_transformers_detector(older), convert_transformers_detector(state)
    assert found.keys() == expected.keys() and all(found[name] is expected[name] for name in found)


@pytest.mark.parametrize("kind", ["DeformableDetr", "Detr"])
def test_classes_of_coco(kind: str) -> None:
    """Heads count by category number, with gaps; DETR keeps its last output, "no object"."""
    model = library_model(kind)
    name = "detector.class_heads.0.bias" if kind == "DeformableDetr" else "detector.class_head.bias"
    everything = convert_transformers_detector(model.state_dict(), box_refine=False)
    some = convert_transformers_detector(model.state_dict(), box_refine=False, categories=[2, 0])
    kept = [2, 0] if kind == "DeformableDetr" else [2, 0, 3]
    assert torch.equal(some[f"proposal_generator.{name}"], everything[f"proposal_generator.{name}"][kept])


def test_other_names_are_refused() -> None:
    with pytest.raises(KeyError, match=r"'roi_heads\.x' is not a name"):
        convert_transformers_detector({"roi_heads.x": torch.zeros(1)})
