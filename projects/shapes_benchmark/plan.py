"""How long the demo will take: its stages cost so many times a convolution, which is measured first."""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from crispmask.engine.progress import describe_seconds, read_progress

# Measured for a second before the plan is printed
PROBE_SECONDS = 1.0
# Convolutions that the start of a command takes, until its first iteration or image
START = 350
# Seconds for which the costs below are trusted before what was seen of this run counts as much
TRUST = 20.0


@dataclass(frozen=True)
class Stage:
    """A training with what follows it.

    Attributes:
        name: of the model.
        iterations: of its training.
        images: that are evaluated; ``timed``: whose time is measured after that.
        iteration_cost, image_cost: in convolutions.
    """

    name: str
    iterations: int
    images: int
    timed: int
    iteration_cost: float
    image_cost: float

    def cost(self, done: float = math.inf, evaluated: float = math.inf, timed: float = math.inf) -> float:
        """Convolutions of a part of the stage, without arguments of all of it."""
        starts = 1 + bool(self.timed) * (timed > 0)
        images = min(evaluated, self.images) + min(timed, self.timed)
        return starts * START + min(done, self.iterations) * self.iteration_cost + images * self.image_cost


class Watch:
    """Says what will be done and in what time, runs it, and says how far the whole is."""

    def __init__(self, stages: Sequence[Stage], convolution: float, *, verbose: bool = False) -> None:
        """
        Args:
            stages: in their order.
            convolution: seconds of one, by which their costs are counted.
            verbose: print all that the commands print.
        """
        self._stages, self._convolution, self._verbose = stages, convolution, verbose
        self._began = time.monotonic()

    def plan(self) -> str:
        """The stages, a line each, with the time that they are expected to take."""
        lines = []
        for number, stage in enumerate(self._stages, 1):
            work = f"{stage.iterations} iterations"
            work += f", evaluation on {stage.images} images" if stage.images else ""
            seconds = describe_seconds(stage.cost() * self._convolution)
            lines.append(f"  {number}  {stage.name:18}{work:44}{seconds}")
        return "\n".join(lines)

    def total(self) -> float:
        """Seconds that all is expected to take."""
        return sum(stage.cost() for stage in self._stages) * self._convolution

    def place(self, name: str) -> str:
        """Number of a stage, of how many."""
        return f"{self._number(name) + 1}/{len(self._stages)}"

    def run(self, name: str, command: Sequence[str]) -> None:
        """Run the training of a stage; of what it prints, warnings and how far it is are passed on.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, errors="backslashreplace"
        ) as process:
            try:
                for line in process.stdout:
                    self._tell(name, line.rstrip("\n"))
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)

    def left(self, name: str, done: float, evaluated: float) -> float:
        """Seconds that are left, judged by how long what is done has taken.

        Args:
            name: of the stage that runs.
            done: iterations that it has done; ``evaluated``: images.
        """
        number = self._number(name)
        past = sum(stage.cost() for stage in self._stages[:number])
        past += self._stages[number].cost(done, evaluated, 0)
        seconds = past * self._convolution
        slower = (time.monotonic() - self._began + TRUST) / (seconds + TRUST)
        return (self.total() - seconds) * slower

    def _number(self, name: str) -> int:
        return [stage.name for stage in self._stages].index(name)

    def _tell(self, name: str, line: str) -> None:
        if self._verbose or re.search(r"\] (WARNING|ERROR):", line):
            print(line, flush=True)
        if found := read_progress(line):
            kind, count, _ = found
            seconds = self.left(name, count, 0) if kind == "iteration" else self.left(name, math.inf, count)
            text = line.split("] ", 1)[-1].split(";" if kind == "iteration" else ",")[0]
            print(f"[{self.place(name)} {name}] {text}; {describe_seconds(seconds)} left in all", flush=True)


def measure_convolution() -> float:
    """Seconds of one convolution with its gradient, of the size of those in the models of the demo."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    features = torch.randn(4, 64, 64, 64, device=device)
    weight = torch.randn(64, 64, 3, 3, device=device, requires_grad=True)

    def run() -> None:
        functional.conv2d(features, weight, padding=1).relu().sum().backward()
        weight.grad[0, 0, 0, 0].item()  # a GPU is waited for

    run()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < PROBE_SECONDS:
        run()
        count += 1
    return (time.perf_counter() - began) / count
