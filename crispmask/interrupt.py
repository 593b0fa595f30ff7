"""Ctrl-C: one line about what is kept and the command that goes on, exit code 130, no traceback."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from crispmask.errors import print_error

EXIT_CODE = 128 + signal.SIGINT
# A process closes its sockets a moment before its children have another parent
SECONDS_TO_END = 0.2
# What a fork or the end of an object takes at most
SECONDS_TO_LEAVE = 0.1
_PR_SET_PDEATHSIG = 1


@contextmanager
def exit_on_interrupt(program: str, kept: Callable[[], str]) -> Iterator[None]:
    """Turn a Ctrl-C in the body into a line on stderr and exit code 130.

    Args:
        program: whose line it is.
        kept: says what is kept and how to go on; the first process of a torchrun alone is asked.
    """
    if _in_main_thread() and signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with forks_ignoring_interrupts(), _none_lost():
            yield
    except KeyboardInterrupt:
        if _in_main_thread():  # a second Ctrl-C ends what may hang, without a word
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if os.environ.get("RANK", "0") == "0":
            print_error(program, f"stopped. {kept()}")
        raise SystemExit(EXIT_CODE) from None


@contextmanager
def interrupts_ignored() -> Iterator[None]:
    """Ignore Ctrl-C in the body; programs that are started in it ignore it all their life."""
    if not _in_main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def forks_ignoring_interrupts() -> Iterator[None]:
    """Let processes that are forked in the body, as those that load data, leave Ctrl-C to this one.

    A terminal sends it to all of them, and theirs would be tracebacks.
    """
    global _forks_ignore
    _forks_ignore += 1
    try:
        yield
    finally:
        _forks_ignore -= 1


@contextmanager
def _none_lost() -> Iterator[None]:
    """Ask again for a Ctrl-C that came where Python drops exceptions, as while it forks."""
    before, process = sys.unraisablehook, os.getpid()

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type is not KeyboardInterrupt:
            before(dropped)
        elif os.getpid() == process:
            # Now it would be dropped once more
            again = threading.Timer(SECONDS_TO_LEAVE, signal.raise_signal, [signal.SIGINT])
            again.daemon = True
            again.start()

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = before


def end_with_parent() -> None:
    """Let this process end when the thread that started it does, however that ends; on Linux alone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _after_fork() -> None:
    """Go on at a Ctrl-C, and say nothing of what then breaks, such as a tensor that is on its way."""
    if not _forks_ignore:
        return
    parent, stopped = os.getppid(), threading.Event()

    def tell(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        time.sleep(SECONDS_TO_END)
        if not stopped.is_set() and os.getppid() == parent:
            sys.__excepthook__(kind, error, trace)

    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    sys.excepthook = tell


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


_forks_ignore = 0
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
