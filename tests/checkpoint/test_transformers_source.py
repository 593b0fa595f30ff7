"""Deformable DETR and DETR of Hugging Face's transformers: what the query-based model takes from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from crispmask import get_config
from crispmask.checkpoint import load_weights
from crispmask.checkpoint.files import write_safetensors
from crispmask.checkpoint.release import convert_checkpoint
from crispmask.cli import main
from crispmask.engine import Trainer
from crispmask.errors import UserError
from tests.checkpoint import released_refinemask
from tests.transfiner.tiny_query import MISSING_LIBRARY

CONFIG = "transfiner/coco/query_R_50_FPN.yaml"
DETECTOR = "proposal_generator.detector."
RESNET = "model.backbone.conv_encoder.model."
if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)
transformers = pytest.importorskip("transformers")

State = dict[str, Tensor]


def resnet_of_timm() -> State:
    """ResNet-50 by the names that the files on the hub have, frozen normalization included."""
    shapes = released_refinemask.resnet(50)
    names = {name.replace("backbone.", RESNET): shape for name, shape in shapes.items()}
    return {
        name: torch.full((), 0.5).expand(shape).clone()
        for name, shape in names.items()
        if not name.endswith("num_batches_tracked")
    }


def library_state(kind: str = "DeformableDetr", *, classes: int = 91, **settings: object) -> State:
    """Of a model as the hub offers it, with one small stage in each place of the library's own ResNet."""
    backbone = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 512, 1024, 2048],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"] if kind == "DeformableDetr" else ["stage4"],
    )
    small = {"encoder_layers": 1, "decoder_layers": 2, "num_labels": classes}
    config = getattr(transformers, f"{kind}Config")(
        backbone_config=backbone, use_timm_backbone=False, **small, **settings
    )
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForObjectDetection")(config)
    generator = torch.Generator().manual_seed(0)
    shapes = {n: v.shape for n, v in model.state_dict().items() if not n.startswith("model.backbone.")}
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


def write(folder: Path, state: State) -> Path:
    path = folder / "model.safetensors"
    write_safetensors(path, state, {})
    return path


@pytest.fixture(scope="module")
def deformable() -> State:
    return resnet_of_timm() | library_state(with_box_refine=True)


def test_detector_and_backbone_of_deformable_detr(
    deformable: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "start.safetensors"
    assert main(["convert", "--source", "transformers", str(write(tmp_path, deformable)), str(out)]) == 0
    printed = capsys.readouterr().out
    opts = ["MODEL.QUERY.ENCODER_LAYERS", "1", "MODEL.QUERY.DECODER_LAYERS", "2"]
    command = f"python train_net.py --config-file {CONFIG} MODEL.WEIGHTS {out} {' '.join(opts)}\n"
    assert f"Train it, also what is missing:  {command}" in printed
    assert "not in the file: roi_heads.mask_head." in printed and "not in the file: backbone.fpn_" in printed
    assert "verify" not in printed and "--eval-only" not in printed  # without a mask branch there is no use

    model = Trainer.build_model(get_config(CONFIG, ["MODEL.DEVICE", "cpu", *opts]))
    report = load_weights(model, out, strict=False)
    assert not report.unexpected and not report.wrong_shapes
    learnt = ("backbone.fpn_", "proposal_generator.tokens.projections.", "roi_heads.mask_head.")
    assert {name for name in report.missing if not name.startswith(learnt)} == set()
    ours = model.state_dict()
    attention = "encoder.layers.0.self_attn.value_proj.weight"
    for name, theirs in {
        f"{DETECTOR}{attention}": f"model.{attention}",
        f"{DETECTOR}box_heads.1.layers.2.bias": "model.decoder.bbox_embed.1.layers.2.bias",
        "backbone.bottom_up.res5.2.conv3.norm.running_var": f"{RESNET}layer4.2.bn3.running_var",
    }.items():
        torch.testing.assert_close(ours[name], deformable[theirs], rtol=0, atol=0)
    # COCO's 80 classes by their numbers: the first is 1, the last 90
    kept = deformable["class_embed.0.bias"][[1, 90]]
    torch.testing.assert_close(ours[f"{DETECTOR}class_heads.0.bias"][[0, -1]], kept, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "settings", "expected"),
    [
        ("DeformableDetr", {}, {"BOX_REFINE": "False"}),
        ("DeformableDetr", {"with_box_refine": True, "two_stage": True}, {"TWO_STAGE": "True"}),
        ("DeformableDetr", {"with_box_refine": True, "num_queries": 50}, {"NUM_QUERIES": "50"}),
        (
            "Detr",
            {},
            {"DETECTOR": "plain", "IN_FEATURES": "('p5',)", "NUM_QUERIES": "100", "FFN_DIM": "2048"},
        ),
    ],
    ids=["plain heads", "two-stage", "queries", "detr"],
)
def test_variants_bring_their_options(
    kind: str, settings: dict[str, object], expected: dict[str, str], tmp_path: Path
) -> None:
    """Also without a backbone that can be taken over."""
    state = library_state(kind, **settings)
    if not settings:  # as it is saved where all layers share one head
        shared = {n: n.replace("embed.1.", "embed.0.") for n in state if "_embed.1." in n}
        state |= {name: state[first].clone() for name, first in shared.items()}
    conversion = convert_checkpoint(write(tmp_path, state), "transformers")
    opts = dict(zip(conversion.opts[::2], conversion.opts[1::2], strict=True))
    assert {f"MODEL.QUERY.{key}": value for key, value in expected.items()}.items() <= opts.items()
    assert not conversion.report.unexpected
    assert not any(name.startswith(DETECTOR) for name in conversion.report.missing)


@pytest.mark.parametrize("levels", [1, 3, 4])
def test_a_deformable_detr_fits_the_config_of_the_other_detector(levels: int, tmp_path: Path) -> None:
    """The options that come with it turn a DETR into it; a DETR needs but its sizes there."""
    config = "transfiner/coco/query_detr_R_50_FPN.yaml"
    state = library_state(with_box_refine=True, num_feature_levels=levels)
    conversion = convert_checkpoint(write(tmp_path, state), "transformers", config=config)
    query = get_config(config, conversion.opts).MODEL.QUERY
    assert (query.DETECTOR, query.CLASS_LOSS, query.CLASS_WEIGHT) == ("deformable", "focal", 2.0)
    assert len(query.IN_FEATURES) == levels
    assert not any(name.startswith(DETECTOR) for name in conversion.report.missing)

    conversion = convert_checkpoint(write(tmp_path, library_state("Detr")), "transformers", config=config)
    assert set(conversion.opts[::2]) <= {
        f"MODEL.QUERY.{key}" for key in ("ENCODER_LAYERS", "DECODER_LAYERS", "BOX_REFINE")
    }


def test_heads_are_those_of_the_config_beside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, library_state("Detr"))
    (note,) = convert_checkpoint(path, "transformers").notes
    assert note.startswith("MODEL.QUERY.NUM_HEADS 8 is taken on trust")
    beside = tmp_path / "config.json"
    beside.write_text('{"encoder_attention_heads": 4, "decoder_attention_heads": 4}')
    conversion = convert_checkpoint(path, "transformers")
    assert not conversion.notes
    assert get_config(conversion.config, conversion.opts).MODEL.QUERY.NUM_HEADS == 4
    beside.write_text('{"encoder_attention_heads": 4, "decoder_attention_heads": 8}')
    with pytest.raises(UserError, match="two values for encoder_attention_heads and decoder_attention_heads"):
        convert_checkpoint(path, "transformers")
    for text, fault in {
        "{": "is no JSON",
        "[1]": "is no JSON",
        '{"encoder_n_points": "4"}': "whole num",
    }.items():
        beside.write_text(text)
        with pytest.raises(UserError, match=rf"config\.json' .*{fault}"):
            convert_checkpoint(path, "transformers")


def test_other_classes_are_allowed_by_pattern(tmp_path: Path) -> None:
    path = write(tmp_path, library_state(with_box_refine=True, classes=7))
    with pytest.raises(UserError, match=r"class_heads\.0\.weight \(file: 7 x 256, model: 80 x 256\)"):
        convert_checkpoint(path, "transformers")
    conversion = convert_checkpoint(path, "transformers", allow_missing=["*.class_heads.*"])
    assert f"{DETECTOR}class_heads.0.weight" in conversion.report.missing


def test_what_is_no_such_file_is_said(deformable: State, tmp_path: Path) -> None:
    path = write(tmp_path, deformable)
    with pytest.raises(UserError, match="names of a released transformers checkpoint: give --source transf"):
        convert_checkpoint(path, "refinemask")
    with pytest.raises(UserError, match=r"refinemask/coco/R_50_FPN_1x\.yaml has no query-based detector"):
        convert_checkpoint(path, "transformers", config="refinemask/coco/R_50_FPN_1x.yaml")
    for state in (
        {"bert.encoder.weight": torch.zeros(1)},
        {**deformable, "mask_head.lay1.weight": torch.zeros(1)},
        {name: value for name, value in deformable.items() if "decoder" not in name},
        {name: value for name, value in deformable.items() if "class_embed" not in name},
    ):
        with pytest.raises(UserError, match=rf"'{path}' (is no Deformable DETR or DETR of tr|does not fit)"):
            convert_checkpoint(write(tmp_path, state), "transformers")
