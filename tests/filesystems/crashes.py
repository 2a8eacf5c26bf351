"""What a power cut can leave: states of the medium out of the writes and flushes that the disk has recorded.

The rules of the hardware: everything before the last flush is there, and every forced write that has ended.  Of the rest
since that flush, any sectors may be missing, each for itself; of a write under way, any of its sectors may be there.

A state is a set of sectors that differ from the image at first, so that equal ones are found by a sum of their hashes.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine.disk import Flushed, Written


@lru_cache(maxsize=1 << 16)
def _hash(sector: int, content: bytes) -> int:
    digest = hashlib.blake2b(content, digest_size=16, key=sector.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")


@dataclass(frozen=True)
class Piece:
    """One sector of a write: the request it belongs to, and whether it cannot be lost once that has ended."""

    request: int
    sector: int
    content: bytes
    forced: bool


@dataclass
class Medium:
    """An image with some sectors replaced; `key` is the same for equal ones."""

    image: bytes
    sectors: dict[int, bytes] = field(default_factory=dict)
    key: int = 0

    def put(self, sector: int, content: bytes) -> None:
        """Replace a sector."""
        original = self.image[sector * SECTOR_SIZE : (sector + 1) * SECTOR_SIZE]
        old = self.sectors.pop(sector, None)
        if old is not None:
            self.key ^= _hash(sector, old)
        if content != original:
            self.sectors[sector] = content
            self.key ^= _hash(sector, content)

    def copy(self) -> "Medium":
        return Medium(self.image, dict(self.sectors), self.key)

    def bytes(self) -> bytearray:
        """The whole image."""
        whole = bytearray(self.image)
        for sector, content in self.sectors.items():
            whole[sector * SECTOR_SIZE : (sector + 1) * SECTOR_SIZE] = content
        return whole


def after(image: bytes, record: Sequence[Written | Flushed]) -> Medium:
    """The medium with everything that was written."""
    medium = Medium(image)
    for entry in record:
        if isinstance(entry, Written):
            for at in range(0, len(entry.data), SECTOR_SIZE):
                medium.put(entry.sector + at // SECTOR_SIZE, bytes(entry.data[at : at + SECTOR_SIZE]))
    return medium


@dataclass(frozen=True)
class State:
    """A medium after a cut at `position`: so many requests of the record had ended."""

    position: int
    how: str
    medium: Medium


@dataclass(frozen=True)
class Bounds:
    """How many states of an epoch are made, beside each prefix and each single dropped sector: of pairs, of subsets.
    None: all pairs."""

    pairs: int | None = None
    subsets: int = 20
    seed: int = 0


def states(
    image: bytes, record: Sequence[Written | Flushed], bounds: Bounds, wanted: Callable[[], bool] = lambda: True
) -> Iterator[State]:
    """Every state within bounds, in the order of the record; equal ones may come again.  `wanted` is asked for each whether
    it is to be made."""
    durable = Medium(image)
    epoch: list[Piece] = []
    rng = random.Random(bounds.seed)
    start = 0
    for position, entry in enumerate([*record, Flushed()]):
        if isinstance(entry, Written):
            data = bytes(entry.data)
            epoch += [
                Piece(position, entry.sector + at // SECTOR_SIZE, data[at : at + SECTOR_SIZE], entry.forced)
                for at in range(0, len(data), SECTOR_SIZE)
            ]
            continue
        yield from _epoch(durable, epoch, start, position, bounds, rng, wanted)
        for piece in epoch:
            durable.put(piece.sector, piece.content)
        epoch, start = [], position + 1


def _without(durable: Medium, epoch: Sequence[Piece], missing: set[int]) -> Medium:
    medium = durable.copy()
    for number, piece in enumerate(epoch):
        if number not in missing:
            medium.put(piece.sector, piece.content)
    return medium


def _epoch(
    durable: Medium, epoch: Sequence[Piece], start: int, end: int, bounds: Bounds, rng: random.Random,
    wanted: Callable[[], bool],
) -> Iterator[State]:  # fmt: skip
    medium = durable.copy()
    if wanted():
        yield State(start, "nothing of the epoch", medium.copy())
    for number, piece in enumerate(epoch):
        medium.put(piece.sector, piece.content)
        whole = number + 1 == len(epoch) or epoch[number + 1].request != piece.request
        if wanted():
            how = f"the first {number + 1} sectors" if whole else f"torn after {number + 1} sectors"
            yield State(piece.request + whole, how, medium.copy())
        if not whole and (number == 0 or epoch[number - 1].request != piece.request) and wanted():
            yield _only_last(durable, epoch, number)
    losable = [number for number, piece in enumerate(epoch) if not piece.forced]
    for number in losable:
        if wanted():
            yield State(end, f"without sector {number}", _without(durable, epoch, {number}))
    pairs = list(combinations(losable, 2))
    if bounds.pairs is not None and len(pairs) > bounds.pairs:
        pairs = sorted(rng.sample(pairs, bounds.pairs))
    for pair in pairs:
        if wanted():
            yield State(end, f"without sectors {pair}", _without(durable, epoch, set(pair)))
    for _ in range(bounds.subsets if len(losable) > 2 else 0):
        if wanted():
            yield _subset(durable, epoch, rng)


def _only_last(durable: Medium, epoch: Sequence[Piece], first: int) -> State:
    """The request that begins with piece `first` under way, and nothing but its last sector done."""
    last = first
    while last + 1 < len(epoch) and epoch[last + 1].request == epoch[first].request:
        last += 1
    missing = set(range(first, last)) | set(range(last + 1, len(epoch)))
    return State(epoch[first].request, f"torn, only sector {last}", _without(durable, epoch, missing))


def _subset(durable: Medium, epoch: Sequence[Piece], rng: random.Random) -> State:
    """A cut at a moment of the epoch, in a request, with sectors lost as they fall."""
    under_way = rng.choice(epoch).request
    lost = rng.choice((0.1, 0.3, 0.5, 0.9))
    missing = set()
    for number, piece in enumerate(epoch):
        safe = piece.forced and piece.request < under_way
        if piece.request > under_way or (not safe and rng.random() < lost):
            missing.add(number)
    return State(under_way, f"without sectors {sorted(missing)}", _without(durable, epoch, missing))


@dataclass(frozen=True)
class Facts:
    """What is seen of a file, directory or link; `identity` is the same for two names of one inode."""

    kind: int
    mode: int
    uid: int
    gid: int
    links: int
    identity: int
    contents: bytes

    @property
    def shape(self) -> tuple[int, ...]:
        """All but the contents and the number."""
        return self.kind, self.mode, self.uid, self.gid, self.links, len(self.contents)


Snapshot = Mapping[bytes, Facts]


@dataclass(frozen=True)
class Promise:
    """What must survive: everything up to operation `step` (all), or the contents of the file that had number `identity` in
    the model then, with its size."""

    step: int
    position: int
    identity: int | None = None


def explain(
    seen: Snapshot, snapshots: Sequence[Snapshot], promises: Sequence[Promise], latest: int, exact: bool
) -> str | None:
    """Why what is seen after recovery cannot be, or None if it can: its names and attributes are those of one moment, not
    before what was promised and not after step `latest`, and contents are from then on (ordered mode), sector by sector.
    `exact`: contents are those of the moment (journal mode)."""
    earliest = max((promise.step for promise in promises if promise.identity is None), default=0)
    reasons = []
    for moment in range(earliest, latest + 1):
        reason = _differs(seen, snapshots, moment, latest, exact) or _broken(seen, snapshots, promises, moment)
        if reason is None:
            return None
        reasons.append(f"not as after step {moment}: {reason}")
    return "; ".join(reasons)


def _differs(seen: Snapshot, snapshots: Sequence[Snapshot], moment: int, latest: int, exact: bool) -> str | None:
    wanted = snapshots[moment]
    if seen.keys() != wanted.keys():
        return f"names {sorted(seen)}"
    for path, facts in seen.items():
        if facts.shape != wanted[path].shape:
            return f"{path!r} is {facts.shape} and not {wanted[path].shape}"
        later = [] if exact else snapshots[moment + 1 : latest + 1]
        versions = [wanted[path].contents]
        for snapshot in later:
            versions += [it.contents for it in snapshot.values() if it.identity == wanted[path].identity]
        for at in range(0, len(facts.contents), SECTOR_SIZE):
            piece = facts.contents[at : at + SECTOR_SIZE]
            if not any(version[at : at + len(piece)] == piece for version in versions):
                return f"{path!r} has something else from byte {at} on"
    pairs = [(a, b) for a, b in combinations(sorted(seen), 2) if wanted[a].identity == wanted[b].identity]
    wrong = next(((a, b) for a, b in pairs if seen[a].identity != seen[b].identity), None)
    return f"{wrong} are not one file" if wrong else None


def _broken(seen: Snapshot, snapshots: Sequence[Snapshot], promises: Sequence[Promise], moment: int) -> str | None:
    """Whether a promise about one file's contents is not kept, if the names are those of `moment`."""
    for promise in promises:
        if promise.identity is None or moment >= promise.step:
            continue
        kept = [facts for facts in snapshots[promise.step].values() if facts.identity == promise.identity]
        paths = [path for path, facts in snapshots[moment].items() if facts.identity == promise.identity]
        if kept and not any(seen[path].contents == kept[0].contents for path in paths):
            return "contents that were made durable are gone"
    return None
