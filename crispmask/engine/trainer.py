"""The trainer: Detectron2's hooks, evaluation and checkpoints around :class:`TrainSteps`."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetFromList,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.engine import DefaultTrainer, hooks, train_loop
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling import GeneralizedRCNNWithTTA
from detectron2.utils import comm
from detectron2.utils.events import EventWriter
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from crispmask.checkpoint.files import VALUE_RANGE
from crispmask.checkpoint.load import UnfitWeightsError
from crispmask.checkpoint.model_info import MODEL_INFO, describe_model, write_model_info
from crispmask.checkpoint.shapes import faults_of_models
from crispmask.data.coco import take_over
from crispmask.data.contents import load_training_images
from crispmask.data.mapper import ImageMapper
from crispmask.data.own import register_own_datasets
from crispmask.engine.checkpointer import AtomicCheckpointer
from crispmask.engine.fine_tuning import start_settings
from crispmask.engine.freeze import check_frozen_weights, freeze_modules
from crispmask.engine.optimizer import build_optimizer, clips_full_model
from crispmask.engine.progress import ProgressReport, log_results
from crispmask.engine.resume import own_settings
from crispmask.engine.steps import TrainSteps
from crispmask.engine.unreadable import UnreadableImages
from crispmask.engine.writers import build_writers
from crispmask.errors import UserError, full_disk
from crispmask.evaluation.build import EVALUATORS, build_evaluator, evaluator_type

AMP_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}

logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Train and evaluate what a config describes, on one process or many, on GPUs or CPUs.

    ``SOLVER.MAX_ITER`` counts optimizer steps, each of ``CRISPMASK.ACCUMULATION_STEPS`` batches of
    ``SOLVER.IMS_PER_BATCH`` images (over all processes).
    """

    def __init__(self, cfg: CfgNode) -> None:
        # Past DefaultTrainer's constructor, which wraps the model for GPUs only
        super(DefaultTrainer, self).__init__()
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.cfg = cfg
        register_own_datasets(cfg)
        self.unreadable = UnreadableImages(cfg.SOLVER.CHECKPOINT_PERIOD)
        images = self.load_images(cfg)
        self.num_images = len(images)
        data_loader = self.unreadable.watch(self.build_train_loader(cfg, images))
        del images  # the loader has them packed
        model = self.build_model(cfg)
        freeze_modules(model, cfg.CRISPMASK.FREEZE)
        optimizer = self.build_optimizer(cfg, model)
        model = distribute(model)
        clip = cfg.SOLVER.CLIP_GRADIENTS
        self._trainer = TrainSteps(
            model,
            data_loader,
            optimizer,
            accumulation_steps=cfg.CRISPMASK.ACCUMULATION_STEPS,
            amp_dtype=AMP_DTYPES[cfg.CRISPMASK.AMP_DTYPE] if cfg.SOLVER.AMP.ENABLED else None,
            clip_norm=clip.CLIP_VALUE if clips_full_model(cfg) else None,
            clip_norm_type=clip.NORM_TYPE,
        )
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # Reading the training images has registered their classes
        self.info = describe_model(cfg)
        # A backbone or a detector may be what the training starts from
        self.checkpointer = AtomicCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            strict=False,
            **start_settings(cfg),
            trainer=weakref.proxy(self),
            metadata={VALUE_RANGE: cfg.INPUT.VALUE_RANGE, MODEL_INFO: self.info.to_dict()},
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def build_hooks(self) -> list[hooks.HookBase]:
        """Detectron2's hooks, how far the run is, and evaluation with test-time augmentation if it is on."""
        built = super().build_hooks()
        if comm.is_main_process():
            built.insert(0, ProgressReport(self.cfg, self.num_images))
        if self.cfg.CRISPMASK.UNREADABLE_IMAGES == "skip":
            built.insert(0, self.unreadable)
        if self.cfg.TEST.AUG.ENABLED:
            # Before the writers, which Detectron2 puts last on the main process
            place = len(built) - comm.is_main_process()
            built.insert(place, hooks.EvalHook(0, lambda: self.test_with_tta(self.cfg, self.model)))
        return built

    def build_writers(self) -> list[EventWriter]:
        """See :func:`crispmask.engine.writers.build_writers`."""
        return build_writers(self.cfg)

    def train(self) -> Any:
        """Train up to ``SOLVER.MAX_ITER``, evaluate, and return the results if any are expected."""
        if self.start_iter >= self.max_iter:
            logger.info("Nothing left to train: the checkpoint is at SOLVER.MAX_ITER %d.", self.max_iter)
        if comm.is_main_process():
            write_model_info(self.info, self.cfg.OUTPUT_DIR)
        with without_traceback():
            return super().train()

    def resume_or_load(self, resume: bool = True) -> Any:
        """Load ``MODEL.WEIGHTS``, or with ``resume`` take up the last checkpoint if there is one.

        The schedule and the settings of the optimizer are those of the config, also where a checkpoint was
        trained with others.

        Raises:
            UserError: the checkpoint is of another model or optimizer, a file cannot be read, or it lacks
                what ``CRISPMASK.FREEZE`` keeps untrained.
        """
        try:
            with own_settings(self._trainer.optimizer, self.scheduler, self.max_iter):
                super().resume_or_load(resume)
            check_frozen_weights(self.checkpointer.report, self.cfg.CRISPMASK.FREEZE, self.cfg.MODEL.WEIGHTS)
        except UnfitWeightsError as error:
            if not resume:
                raise
            raise UserError(f"The run in '{self.cfg.OUTPUT_DIR}' cannot be resumed. {error}") from error
        except (KeyError, RuntimeError, ValueError) as error:
            if not resume:
                raise
            reason = shorten(str(error), 120, placeholder=" ...")
            raise UserError(
                f"The run in '{self.cfg.OUTPUT_DIR}' cannot be resumed: its model or optimizer is another "
                f"one ({reason}): use the config that it was started with, CRISPMASK.FREEZE and "
                "CRISPMASK.OPTIMIZER included, or start anew in another OUTPUT_DIR."
            ) from error

    @classmethod
    def load_images(cls, cfg: CfgNode) -> list[dict[str, Any]]:
        """Detectron2's dicts of the images of ``DATASETS.TRAIN``.

        Raises:
            UserError: a file of a data set cannot be used, nothing in it can be learnt from, or its masks are
                not of the kind that ``INPUT.MASK_FORMAT`` names.
        """
        try:
            dicts = load_training_images(cfg)
        except ValueError as error:
            raise UserError(str(error)) from error
        if cfg.MODEL.MASK_ON:
            check_mask_format(dicts, cfg.INPUT.MASK_FORMAT)
        return dicts

    @classmethod
    def build_train_loader(cls, cfg: CfgNode, dicts: Sequence[dict[str, Any]] | None = None) -> Any:
        """Detectron2's loader of images; without ``dicts`` those of :meth:`load_images`."""
        dicts = cls.load_images(cfg) if dicts is None else dicts
        takes_others = cfg.CRISPMASK.UNREADABLE_IMAGES == "skip" or cfg.INPUT.COPY_PASTE.PROBABILITY > 0
        # Packed as Detectron2 packs them for the processes of a loader
        others = DatasetFromList(dicts, copy=False) if takes_others else ()
        mapper = ImageMapper(cfg, is_train=True, others=others)
        return build_detection_train_loader(cfg, dataset=dicts, mapper=mapper)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str) -> Any:
        """Detectron2's loader of a data set of ``DATASETS.TEST``.

        Raises:
            UserError: a file of the data set cannot be used.
        """
        take_over(dataset_name)
        try:
            mapper = ImageMapper(cfg, is_train=False)
            return build_detection_test_loader(cfg, dataset_name, mapper=mapper)
        except ValueError as error:
            raise UserError(str(error)) from error

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Detectron2's model of a config.

        Raises:
            UserError: a value of the config does not fit the model.
        """
        with faults_of_models():
            return super().build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        """See :func:`crispmask.engine.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_evaluator(
        cls, cfg: CfgNode, dataset_name: str, output_folder: str | None = None
    ) -> DatasetEvaluator:
        """Mask AP and, with ``TEST.BOUNDARY.ENABLED``, Boundary AP, into ``OUTPUT_DIR/inference``.

        Raises:
            NotImplementedError: there is no evaluator for this data set; Detectron2 then skips it.
        """
        if evaluator_type(dataset_name) not in EVALUATORS:
            raise NotImplementedError(f"no evaluator for data set '{dataset_name}'")
        return build_evaluator(cfg, dataset_name, output_folder)

    @classmethod
    def test(cls, cfg: CfgNode, model: nn.Module, evaluators: Any = None) -> dict[str, Any]:
        """Detectron2's evaluation on ``DATASETS.TEST``, and its figures as a table in the log."""
        results = super().test(cfg, model, evaluators)
        if comm.is_main_process():
            log_results(results, cfg.DATASETS.TEST)
        return results

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> dict[str, Any]:
        """Evaluate with test-time augmentation; the names of the results end in ``_TTA``."""
        folder = str(Path(cfg.OUTPUT_DIR) / "inference_TTA")
        evaluators = [cls.build_evaluator(cfg, name, folder) for name in cfg.DATASETS.TEST]
        results = cls.test(cfg, GeneralizedRCNNWithTTA(cfg, model), evaluators)
        return {f"{name}_TTA": value for name, value in results.items()}


@contextmanager
def without_traceback() -> Iterator[None]:
    """Keep Detectron2's loop from logging the traceback of what is told in a sentence."""

    def is_news(record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not (isinstance(error, UserError) or full_disk(error) is not None)

    loop = logging.getLogger(train_loop.__name__)
    loop.addFilter(is_news)
    try:
        yield
    finally:
        loop.removeFilter(is_news)


def check_mask_format(dicts: Sequence[Mapping[str, Any]], mask_format: str) -> None:
    """RLE masks need ``INPUT.MASK_FORMAT: bitmask``; polygons can be read as both.

    Args:
        dicts: images in Detectron2's format.
        mask_format: ``polygon`` or ``bitmask``.

    Raises:
        UserError: naming the first image with an RLE mask where polygons are asked for.
    """
    if mask_format != "polygon":
        return
    for image in dicts:
        masks = (a.get("segmentation") for a in image.get("annotations", ()) if not a.get("iscrowd", 0))
        if any(isinstance(mask, Mapping) for mask in masks):
            raise UserError(
                f"INPUT.MASK_FORMAT is polygon, but '{image.get('file_name')}' has RLE masks: "
                f"give INPUT.MASK_FORMAT bitmask."
            )


def distribute(model: nn.Module) -> nn.Module:
    """Wrap a model so that its gradients are averaged over the ranks; with one process, leave it alone."""
    if comm.get_world_size() == 1:
        return model
    on_gpu = next(model.parameters()).is_cuda
    # Newer torch has the first name for it and warns about the second
    names = ("forward_sync_buffers", "broadcast_buffers")
    known = signature(DistributedDataParallel).parameters
    no_buffer_sync: dict[str, Any] = {next(name for name in names if name in known): False}
    return DistributedDataParallel(
        model, device_ids=[comm.get_local_rank()] if on_gpu else None, **no_buffer_sync
    )
