"""What is told of training images that cannot be read and are skipped: each by name, and how often."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage

logger = logging.getLogger(__name__)


class UnreadableImages(HookBase):
    """Warns of each file once, and tells the number of all ranks with the checkpoints and at the end."""

    def __init__(self, period: int) -> None:
        """
        Args:
            period: iterations between two counts.
        """
        self.period = period
        self.skips = 0
        # What was said of each file at first: Pillow may find other words for the same file
        self.sentences: dict[str, str] = {}

    def watch(self, loader: Iterable[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
        """The batches of a loader, whose dicts may say what others they stand for."""
        for batch in loader:
            for image in batch:
                self._note(image)
            if self.skips:
                get_event_storage().put_scalar("unreadable_images", self.skips, smoothing_hint=False)
            yield batch

    def after_step(self) -> None:
        """Tell the count, every ``period`` iterations and after the last."""
        done = self.trainer.iter + 1
        if done % self.period == 0 or done >= self.trainer.max_iter:
            self._tell()

    def _note(self, image: Mapping[str, Any]) -> None:
        for path, sentence in image.get("unreadable", ()):
            self.skips += 1
            if path not in self.sentences:
                self.sentences[path] = sentence
                logger.warning("%s. Another image takes its place.", sentence)

    def _tell(self) -> None:
        counts = comm.gather((self.skips, self.sentences))
        skips = sum(count for count, _ in counts)
        if skips:
            files = {path: said for _, sentences in counts for path, said in sentences.items()}
            logger.warning(
                "%d image file(s) could not be read, and others took their place %d time(s). %s.",
                len(files),
                skips,
                ". ".join(files.values()),
            )
