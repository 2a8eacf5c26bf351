"""What a disk's write cache would lose with its power: for every sector what was there before, until it is durable.

The medium in memory always has the latest contents, so that reading is plain; this is the record of what may come back.
A sector's versions are those it had since it was last durable, the durable one first.
"""

import random
from dataclasses import dataclass, field

from exokernel.abi.layout import SECTOR_SIZE

FOLD_AT = 8_192
"""So many writes are kept as they came before they are sorted by sector: sorting costs, and a flush makes it needless."""
VERSIONS_MAXIMUM = 8
"""Of one sector.  The durable one and the latest are kept, and of those between the later ones."""


@dataclass
class VolatileSectors:
    """`remember` what a write replaces, say what has become `durable`, and at a power cut ask for the `versions`."""

    _versions: dict[int, list[bytes]] = field(default_factory=dict)
    _recent: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    """In order: (sector, count, what was there before), or None for sectors that became durable."""

    def __bool__(self) -> bool:
        return bool(self._versions or self._recent)

    def remember(self, sector: int, count: int, before: bytes) -> None:
        """A write into the cache replaces `before`."""
        self._recent.append((sector, count, before))
        if len(self._recent) >= FOLD_AT:
            self._fold()

    def durable(self, sector: int, count: int) -> None:
        """What these sectors have now is on the medium."""
        if self._recent or self._versions:
            self._recent.append((sector, count, None))

    def clear(self) -> None:
        """All is on the medium."""
        self._versions.clear()
        self._recent.clear()

    def versions(self) -> dict[int, list[bytes]]:
        """By sector, in ascending order: what a power cut may leave there besides the latest contents, oldest first."""
        self._fold()
        return {sector: self._versions[sector] for sector in sorted(self._versions)}

    def _fold(self) -> None:
        known = self._versions
        for start, count, before in self._recent:
            if before is not None:
                for sector in range(start, start + count):
                    at = (sector - start) * SECTOR_SIZE
                    older = known.setdefault(sector, [])
                    older.append(before[at : at + SECTOR_SIZE])
                    if len(older) > VERSIONS_MAXIMUM:
                        del older[1]
            elif count > len(known):
                for sector in [sector for sector in known if start <= sector < start + count]:
                    del known[sector]
            else:
                for sector in range(start, start + count):
                    known.pop(sector, None)
        self._recent.clear()


def chosen(versions: list[bytes], latest: float, random: random.Random) -> bytes | None:
    """One of the versions a sector may have after a power cut: None for its latest contents, with probability `latest`."""
    return None if random.random() < latest else random.choice(versions)
