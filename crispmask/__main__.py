"""``python -m crispmask`` is the command ``crispmask``."""

from __future__ import annotations

import signal


def run() -> int:
    """The command; a Ctrl-C while it is imported ends it without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from crispmask.cli import main

    return main()


if __name__ == "__main__":
    raise SystemExit(run())
