"""The query-based model from the command line, its weights from other files, and four images by heart."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.structures import pairwise_iou
from detectron2.utils.events import EventStorage
from tiny_query import MISSING_LIBRARY, query_config, query_model

from crispmask.checkpoint import load_weights, read_weight_file
from crispmask.engine.steps import total_loss
from crispmask.modeling.groundtruth import full_masks
from tests.refinemask.tiny_refinemask import mapped, star, write_image
from transfiner_d2.query.checkpoint import convert_transformers_detector

if MISSING_LIBRARY:
    pytest.skip(MISSING_LIBRARY, allow_module_level=True)
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
CONFIG = "configs/shapes/query_transfiner_R_18_FPN.yaml"


def run(*words: object) -> str:
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(ROOT / CONFIG)]
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def last_iteration(folder: Path) -> int:
    return torch.load(folder / (folder / "last_checkpoint").read_text())["iteration"]


def test_two_processes_train_evaluate_and_one_resumes(shapes_root, small_run, tmp_path):
    """One process may see no object at all, and both must still take the same step."""
    # Without weights nothing may be frozen
    words = ("OUTPUT_DIR", tmp_path, *small_run, "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False")
    words += ("CRISPMASK.FREEZE", "()")
    log = run("--num-gpus", 2, *words)
    assert "images on 2 processes" in log and "Results on shapes_val" in log
    assert last_iteration(tmp_path) == 1
    found = json.loads((tmp_path / "inference" / "coco_instances_results.json").read_text())
    assert len(found) > 10 and all(0 <= row["score"] <= 1 for row in found)
    log = run("--resume", *words, "SOLVER.MAX_ITER", 4, "DATASETS.TEST", "()")
    assert "goes on after iteration 2, " in log and last_iteration(tmp_path) == 3


def test_number_of_classes_is_checked_before_the_start(shapes_root):
    command = [sys.executable, str(ROOT / "train_net.py"), "--config-file", str(ROOT / CONFIG)]
    done = subprocess.run(
        [*command, "MODEL.ROI_HEADS.NUM_CLASSES", "80"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2 and "NUM_CLASSES is 80 but data set 'shapes_train' has 8" in done.stderr


def boxes_of(model: torch.nn.Module, batch: list[dict[str, object]]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([x["instances"].pred_boxes.tensor for x in model.eval()(batch)])


def test_detector_from_a_checkpoint_of_detectron2(tmp_path):
    """Trained without masks, by Detectron2's own checkpointer; the mask branch keeps its start."""
    image = write_image(tmp_path, "one", (96, 128), [[star((60, 50), 30)]])
    detector = query_model(query_config(MODEL__MASK_ON=False), seed=1)
    DetectionCheckpointer(detector, str(tmp_path)).save("detector")
    cfg = query_config()
    model, batch = query_model(cfg, seed=2), mapped(cfg, [image], is_train=False)
    before = boxes_of(model, batch)
    report = load_weights(model, tmp_path / "detector.pth", strict=False)
    assert report.missing and all(name.startswith("roi_heads.mask_head.") for name in report.missing)
    assert not report.unexpected and not report.wrong_shapes
    after = boxes_of(model, batch)
    assert torch.equal(after, boxes_of(detector, batch)) and not torch.equal(after, before)


@pytest.mark.parametrize("two_stage", [False, True])
def test_detector_from_a_file_of_transformers(tmp_path, two_stage):
    """All but the projections, which read other maps, and the backbone."""
    settings = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_n_points": 2}
    config = transformers.DeformableDetrConfig(
        backbone_config=transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"]),
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        decoder_n_points=2,
        num_queries=8,
        with_box_refine=True,
        two_stage=two_stage,
        num_labels=5,
        **settings,
    )
    torch.manual_seed(0)
    theirs = transformers.DeformableDetrForObjectDetection(config)
    theirs.save_pretrained(tmp_path)
    model = query_model(query_config(TWO_STAGE=two_stage))
    state = read_weight_file(tmp_path / "model.safetensors")["model"]
    # Three classes, numbered 1, 2 and 4 there
    torch.save(convert_transformers_detector(state, categories=[1, 2, 4]), tmp_path / "ours.pth")
    report = load_weights(model, tmp_path / "ours.pth", strict=False)
    assert not report.unexpected
    assert not [name for name in report.missing if name.startswith("proposal_generator.")]
    assert {name.rsplit(".", 1)[0] for name, _, _ in report.wrong_shapes} == {
        f"proposal_generator.tokens.projections.{index}.0" for index in range(4)
    }
    ours, expected = model.proposal_generator.detector, theirs.state_dict()
    layer = "model.decoder.layers.1.encoder_attn.sampling_offsets.bias"
    assert torch.equal(ours.decoder_layers[1].encoder_attn.sampling_offsets.bias, expected[layer])
    assert torch.equal(ours.class_heads[1].weight, expected["class_embed.1.weight"][[1, 2, 4]])


def test_four_images_are_learnt_by_heart(tmp_path):
    """Every object is found, with its class, its box and its mask."""
    centres, radii = [(24, 30), (40, 32), (30, 34), (34, 26)], [16, 18, 20, 22]
    images = [
        write_image(tmp_path, f"{'x' * index}image", (64, 64), [[star(centre, radius, lobes=3 + index)]])
        for index, (centre, radius) in enumerate(zip(centres, radii, strict=True))
    ]
    for index, image in enumerate(images):
        image["annotations"][0]["category_id"] = index % 3
    sizes = {"INPUT__MIN_SIZE_TRAIN": (64,), "INPUT__MIN_SIZE_TEST": 64, "INPUT__MASK_FORMAT": "polygon"}
    # Images of 64 pixels need the finest map, too
    cfg = query_config(CONFIG, TWO_STAGE=True, IN_FEATURES=("p2", "p3", "p4", "p5"), **sizes)
    torch.manual_seed(0)
    model = build_model(cfg).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    batch = mapped(cfg, images, is_train=True)
    with EventStorage():
        for _ in range(100):
            loss = total_loss(model(batch))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
    with torch.no_grad():
        results = [x["instances"] for x in model.eval()(mapped(cfg, images, is_train=False))]
    for image, result in zip(batch, results, strict=True):
        best, truth = result[:1], image["instances"]
        assert best.scores.item() > 0.5 and torch.equal(best.pred_classes, truth.gt_classes)
        assert pairwise_iou(best.pred_boxes, truth.gt_boxes).item() > 0.8
        mask, found = full_masks(truth.gt_masks, 64, 64)[0], best.pred_masks[0]
        assert (mask & found).sum() / (mask | found).sum() > 0.8
