"""``python -m crispmask`` is the command ``crispmask``."""

from crispmask.cli import main

raise SystemExit(main())
