"""Names of the authors' checkpoints of RefineMask, whose code is a fork of MMDetection."""

from crispmask.releases import MMDETECTION, WB, Release, rules

_STAGE = r"stages\.(?P<k>[012])\."

# A stack holds a convolution at every second place, each followed by a ReLU.
_HEAD = rules(
    "roi_head.mask_head.",
    "roi_heads.mask_head.",
    {
        r"instance_convs\.(?P<i>\d)\.conv" + WB: "instance_convs.{i*2}.{wb}",
        r"semantic_convs\.(?P<i>\d)\.conv" + WB: "semantic_head.convs.{i*2}.{wb}",
        r"semantic_logits" + WB: "semantic_head.logits.{wb}",
        _STAGE + r"semantic_transform_in" + WB: "stages.{k}.semantic_in.{wb}",
        _STAGE + r"semantic_transform_out" + WB: "stages.{k}.semantic_out.{wb}",
        _STAGE + r"instance_logits" + WB: "stages.{k}.logits.{wb}",
        _STAGE + r"fuse_conv\.0" + WB: "stages.{k}.fuse.{wb}",
        _STAGE + r"fuse_conv\.1\.dilation_conv_(?P<d>[123])\.conv" + WB: "stages.{k}.dilated.{d-1}.{wb}",
        _STAGE + r"fuse_conv\.1\.merge_conv\.conv" + WB: "stages.{k}.merge.{wb}",
        _STAGE + r"fuse_transform_out" + WB: "stages.{k}.squeeze.{wb}",
        r"final_instance_logits" + WB: "final_logits.{wb}",
        r"stage_instance_logits\.(?P<k>[012])" + WB: "stages.{k}.logits.{wb}",
        r"stage_instance_logits\.3" + WB: "final_logits.{wb}",
    },
)

RELEASE = Release(rules=(*_HEAD, *MMDETECTION))
