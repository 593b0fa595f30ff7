"""Names of the authors' checkpoints of Mask Transfiner, whose code is a fork of Detectron2."""

from crispmask.releases import WB, Release, rules

_LAYER = "quadtree.refiner.body.layers.{i}."

# All but the mask branch has the names of Detectron2
_RULES = rules(
    "",
    "",
    {
        r"(?P<name>(?:backbone|proposal_generator|roi_heads\.box_\w+)\..+)": "{name}",
        r"roi_heads\.mask_pooler\.conv_norm_relus_semantic\.(?P<i>[0246])"
        + WB: "roi_heads.mask_head.detail_convs.{i}.{wb}",
    },
) + rules(
    "roi_heads.mask_head.",
    "roi_heads.mask_head.",
    {
        r"(?P<layer>mask_fcn[1-4]|deconv|predictor)" + WB: "coarse.{layer}.{wb}",
        r"deconv_bo" + WB: "boundary_head.deconv.{wb}",
        r"predictor_bo" + WB: "boundary_head.classifier.{wb}",
        r"predictor_semantic_s" + WB: "semantic_classifier.{wb}",
        **{
            rf"mask_fcn_uncertain{k}" + WB: f"quadtree.detector.convs.{2 * k - 2}." + "{wb}"
            for k in (1, 2, 3, 4)
        },
        r"deconv_uncertain" + WB: "quadtree.detector.deconv.{wb}",
        r"predictor_uncertain" + WB: "quadtree.detector.classifier.{wb}",
        r"encoder\.conv_fuse" + WB: "quadtree.refiner.fuse.{wb}",
        r"encoder\.conv_r1\.(?P<i>[02])" + WB: "quadtree.refiner.decoder.{i}.{wb}",
        r"encoder\.layers\.(?P<i>\d)\.self_attn\.in_proj_(?P<wb>weight|bias)": _LAYER
        + "attention.in_proj.{wb}",
        r"encoder\.layers\.(?P<i>\d)\.self_attn\.out_proj" + WB: _LAYER + "attention.out_proj.{wb}",
        r"encoder\.layers\.(?P<i>\d)\.(?P<layer>linear[12]|norm[12])" + WB: _LAYER + "{layer}.{wb}",
    },
)

# The models of the paper itself were never released
RELEASE = Release(rules=_RULES, is_config=lambda name: name.endswith("_released.yaml"))
