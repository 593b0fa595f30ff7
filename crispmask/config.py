"""Config keys that belong to no head, and the one call that builds a complete config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crispmask.config_files import read_config_file, read_config_text
from crispmask.errors import UserError
from crispmask.heads import heads
from crispmask.missing import explained_imports

if TYPE_CHECKING:
    from detectron2.config import CfgNode


def add_crispmask_config(cfg: CfgNode) -> None:
    """Add ``CRISPMASK`` (training), ``MODEL.SWIN``, ``TEST.BOUNDARY`` and keys of ``INPUT`` in place."""
    from detectron2.config import CfgNode as CN

    import crispmask.modeling.swin  # noqa: F401  registers its backbone

    cfg.CRISPMASK = CN()
    # Data sets of one's own in COCO's format, for DATASETS.TRAIN and TEST: a list of
    # {name: mugs_train, json: <annotations>, images: <folder that file_name starts from>}.
    # With "part: train, val_share: 0.1" or "part: val, val_share: 0.1" an entry is that part of the images.
    # --train-json and its like of train_net.py fill it
    cfg.CRISPMASK.DATASETS = []
    # "SGD", Detectron2's, or "ADAMW"; both with SOLVER.BASE_LR, WEIGHT_DECAY and WEIGHT_DECAY_NORM
    cfg.CRISPMASK.OPTIMIZER = "SGD"
    # Factors on SOLVER.BASE_LR under "ADAMW": [part of a parameter's name, factor]; all that fit multiply
    cfg.CRISPMASK.LR_FACTORS = []
    # Modules that are not trained and drop nothing, by name, under any optimizer: to train a new mask head on
    # a detector that stays what it is,
    # ("backbone", "proposal_generator", "roi_heads.box_head", "roi_heads.box_predictor")
    cfg.CRISPMASK.FREEZE = ()
    # Modules that get nothing from MODEL.WEIGHTS in training, by name: they start anew, as a mask head does
    # with ("roi_heads.mask_head",). train_net.py --freeze-detector sets FREEZE and DROP
    cfg.CRISPMASK.DROP = ()
    # Training: layers of MODEL.WEIGHTS with a row a class are fitted to the classes of DATASETS.TRAIN. Rows
    # of classes of the same name are taken, others start anew; without names those of as many classes are
    # taken in their order. False: in their order always, and layers of another number of classes start anew.
    # train_net.py --from sets it, with MODEL.WEIGHTS
    cfg.CRISPMASK.ADAPT_CLASSES = False
    # Batches of SOLVER.IMS_PER_BATCH images whose gradients are averaged before one optimizer step
    cfg.CRISPMASK.ACCUMULATION_STEPS = 1
    # Autocast type when SOLVER.AMP.ENABLED: "bfloat16" or "float16" (with loss scaling)
    cfg.CRISPMASK.AMP_DTYPE = "bfloat16"
    # Use deterministic algorithms where torch has them; needs SEED >= 0 to repeat a run
    cfg.CRISPMASK.DETERMINISTIC = False
    # Evaluation and prediction need every tensor of the model in MODEL.WEIGHTS, and no other. False, and
    # training from MODEL.WEIGHTS always: those that fit are taken, a table of the rest is printed
    cfg.CRISPMASK.STRICT_WEIGHTS = True
    # What becomes of a training image that cannot be read: "stop" ends the run with its name, "skip" takes
    # another one in its place, and tells the names and how often. An evaluation always stops
    cfg.CRISPMASK.UNREADABLE_IMAGES = "stop"
    # Look at the header of every image before a run: is it there, is it an image, has it the size that the
    # annotations say. About a minute for COCO; False trusts the files
    cfg.CRISPMASK.CHECK_IMAGES = True
    # Weights & Biases project that scalars are sent to; empty: off
    cfg.CRISPMASK.WANDB_PROJECT = ""

    # Values that are black and white, (low, high), in images of 16 and 32 bits and of floats. The range
    # that a file states comes first (PNG sBIT, TIFF MinSampleValue and MaxSampleValue), then this one, then
    # that of the type (0 to 65535; signed, 32-bit and float files have none). 8 bits are not scaled.
    # "auto": the smallest and largest value of the training images, found before training and stored with the
    # weights, from which evaluation, demo and Predictor take it
    cfg.INPUT.VALUE_RANGE = None

    # Turn training images by 0, 90, 180 or 270 degrees, by chance: for images without up and down, from
    # microscopes or the air. With INPUT.RANDOM_FLIP these are all eight poses
    cfg.INPUT.RANDOM_TURN = False
    # Change the colours of training images by chance, after all that moves pixels; 0.0: off
    cfg.INPUT.COLOR_JITTER = CN()
    # Brightness, contrast and saturation are multiplied by a factor between 1 - this and 1 + this
    cfg.INPUT.COLOR_JITTER.BRIGHTNESS = 0.0
    cfg.INPUT.COLOR_JITTER.CONTRAST = 0.0
    cfg.INPUT.COLOR_JITTER.SATURATION = 0.0
    # How far colours are shifted along the principal ones of ImageNet; that of AlexNet was 25.5
    cfg.INPUT.COLOR_JITTER.LIGHTING = 0.0
    # Simple copy-paste (Ghiasi et al., CVPR 2021): objects of another training image, augmented as any, are
    # laid onto an image at a place by chance. Crowd regions are not pasted. What gets objects has bitmaps for
    # masks, whatever INPUT.MASK_FORMAT is
    cfg.INPUT.COPY_PASTE = CN()
    # Share of the training images that get objects; 0.0: off
    cfg.INPUT.COPY_PASTE.PROBABILITY = 0.0
    # They get from one to this many
    cfg.INPUT.COPY_PASTE.MAX_OBJECTS = 30
    # An object of which pasted ones, or the border, leave a smaller share than this is one no more
    cfg.INPUT.COPY_PASTE.MIN_VISIBLE = 0.1

    # Swin Transformer, with MODEL.BACKBONE.NAME "build_swin_fpn_backbone"; the values are those of Swin-T
    cfg.MODEL.SWIN = CN()
    # Channels of the first stage, doubled by each further one
    cfg.MODEL.SWIN.EMBED_DIM = 96
    # Blocks and attention heads of each stage
    cfg.MODEL.SWIN.DEPTHS = (2, 2, 6, 2)
    cfg.MODEL.SWIN.NUM_HEADS = (3, 6, 12, 24)
    # Side of a window in cells
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    # Probability that the last block is skipped in training, from 0 for the first block on
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.2

    cfg.TEST.BOUNDARY = CN()
    # Report Boundary AP beside mask AP
    cfg.TEST.BOUNDARY.ENABLED = True
    # Boundary width as a share of the image diagonal (Boundary IoU, CVPR 2021, section 4: 0.02 for COCO)
    cfg.TEST.BOUNDARY.DILATION_RATIO = 0.02


def get_config(
    path: str | Path | None = None, opts: Sequence[object] = (), *, text: str | None = None
) -> CfgNode:
    """Detectron2's defaults with every key of CrispMask, merged with a YAML file and a list of overrides.

    Args:
        path: YAML file; where no such file exists, a config of the package, with or without the
            leading ``configs/`` (``baselines/coco/mask_rcnn_R_50_FPN_1x.yaml``).
        opts: ``KEY, VALUE, KEY, VALUE, ...``.
        text: YAML in place of that of a file; ``path`` is then its name in messages.

    Nothing that a config says is run; see :func:`crispmask.config_files.read_config_file`.

    Raises:
        FileNotFoundError: ``path`` is neither a file nor a config of the package.
        UserError: the file or one of its bases cannot be read, or a head package cannot be used.
    """
    with explained_imports():
        from detectron2.config import get_cfg

    cfg = get_cfg()
    add_crispmask_config(cfg)
    for head in heads():
        head.load(head.add_config)(cfg)
    if text is not None:
        _merge_values(cfg, read_config_text(text, str(path)), str(path))
    elif path is not None:
        found = find_config(path)
        _merge_values(cfg, read_config_file(found), str(found))
    _write_presets(cfg, dict(zip(map(str, opts[::2]), opts[1::2], strict=False)))
    # Any value may take the place of None, as a pair that of auto
    if "INPUT.VALUE_RANGE" in opts[::2]:
        cfg.INPUT.VALUE_RANGE = None
    cfg.merge_from_list(list(opts))
    return cfg


def _merge_values(cfg: CfgNode, plain: Mapping[str, Any], name: str) -> None:
    """Merge a file in place; one of an older version is brought up to date, as Detectron2 does it."""
    from detectron2.config import CfgNode as CN
    from detectron2.config import compat

    _check_sections(cfg, plain, name)
    preset = _write_presets(cfg, dict(_flat(plain)))
    # Earlier versions saved a null where a key has the value that another one stands for
    values = CN(_without_nulls(plain, preset))
    version = values["VERSION"] if "VERSION" in values else compat.guess_version(values, name)
    if not isinstance(version, int) or not 0 < version <= cfg.VERSION:
        raise UserError(f"Config file '{name}' has VERSION {version!r}: only 1 to {cfg.VERSION} can be read.")
    if version == cfg.VERSION:
        cfg.merge_from_other_cfg(values)
        return
    old = compat.downgrade_config(cfg, to_version=version)
    old.merge_from_other_cfg(values)
    new = compat.upgrade_config(old)
    cfg.clear()
    cfg.update(new)


def _write_presets(cfg: CfgNode, given: Mapping[str, Any]) -> list[str]:
    """Write the values that a key of a head stands for, where a file or a command line has the key.

    What else it has is merged afterwards, so that it counts.

    Returns:
        The sections whose keys have such values.
    """
    sections = []
    for head in heads():
        for key, write in (head.load(head.presets) if head.presets else {}).items():
            if key in given:
                write(cfg, given[key])
                sections.append(key.rpartition(".")[0])
    return sections


def _without_nulls(plain: Mapping[str, Any], sections: Sequence[str], above: str = "") -> dict[str, Any]:
    """A file without what is null directly in some sections."""
    return {
        key: _without_nulls(value, sections, f"{above}{key}.") if isinstance(value, Mapping) else value
        for key, value in plain.items()
        if value is not None or above.rstrip(".") not in sections
    }


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """``SECTION.KEY`` and value of all values below sections."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _check_sections(cfg: CfgNode, plain: Mapping[str, Any], name: str, above: str = "") -> None:
    """Stop on a value where the config has a section, in which Detectron2 would look for keys."""
    for key, value in plain.items():
        section = cfg.get(key)
        if isinstance(section, type(cfg)) and not isinstance(value, Mapping):
            found = "nothing below it" if value is None else f"a value of type {type(value).__name__}"
            raise UserError(
                f"Config file '{name}': {above}{key} is a section and has {found}: write its keys below it, "
                "on lines that are indented, or leave it out."
            )
        if isinstance(section, type(cfg)):
            _check_sections(section, value, name, f"{above}{key}.")


def find_config(path: str | Path) -> Path:
    """Path of a config: ``path`` itself if it is a file, else the config of that name in the package, else in
    Detectron2's model zoo.

    Raises:
        FileNotFoundError: there is no such file in either place.
    """
    path = Path(path)
    if path.is_file():
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    here = Path(__file__).resolve().parent
    for folder in (here / "configs", here.parent / "configs"):
        if (folder / inside).is_file():
            return folder / inside
    from detectron2 import model_zoo

    if (found := Path(model_zoo.__file__).with_name("configs") / path).is_file():
        return found
    raise FileNotFoundError(
        f"No config file '{path}': it is neither a file nor one of the configs that come with CrispMask or "
        "Detectron2."
    )
