"""What a reader left out of a file or took otherwise than it stands there: counted, with a place for each."""

from __future__ import annotations


class Findings:
    """Counts of what was met in a file, by what was done with it."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._places: dict[str, str] = {}

    def add(self, what: str, place: str) -> None:
        """Count one.

        Args:
            what: the things and what was done with them: ``empty parts of polygons, left out``.
            place: where it was met: ``annotation 3 (id 17)``.
        """
        self._counts[what] = self._counts.get(what, 0) + 1
        # Within a sentence: annotation 3, line 5 of a file
        self._places.setdefault(what, place[:1].lower() + place[1:])

    def count(self, what: str) -> int:
        """How often something was met."""
        return self._counts.get(what, 0)

    def notes(self) -> tuple[str, ...]:
        """A line for each thing, in the order in which they were met first."""
        return tuple(
            f"{what}: {count}, {self._places[what]}{' for one' if count > 1 else ''}"
            for what, count in self._counts.items()
        )
