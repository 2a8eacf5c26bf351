"""A B+ tree whose nodes are never overwritten while a checkpoint leads to them.

A transaction's changes are made from the root down, all at once and in the order of their keys: each node on the way is
read once, and written once, elsewhere unless it was written since the last checkpoint.  A node that would be too large
becomes several of about the same size; one that has become small is joined with its neighbour.  (Bayer and McCreight 1972;
Comer, The Ubiquitous B-Tree, ACM Computing Surveys 1979; Rodeh 2008 for the copying.)
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from libos.database.errors import CorruptStore
from libos.database.format import (
    CAPACITY,
    ENTRY_OVERHEAD,
    Geometry,
    NodePointer,
    PageKind,
    Seal,
    pack_entries,
    unpack_entries,
    unpack_pointer,
)
from libos.database.space import Space
from libos.storage.cache import BlockCache

Entry = tuple[bytes, bytes]
Changes = list[tuple[bytes, bytes | None]]
_KEY: Final = itemgetter(0)
_SMALL: Final = CAPACITY // 4


@dataclass(slots=True)
class _Child:
    """A node as its parent is told of it: the first key below it, where it is, and its size in bytes, if known."""

    key: bytes
    pointer: NodePointer
    size: int | None = None


def entry_size(key: bytes, value: bytes) -> int:
    """Bytes of a node that an entry takes."""
    return len(key) + len(value) + ENTRY_OVERHEAD


def divide(entries: list[Entry]) -> list[list[Entry]]:
    """Entries for one node, or for as few as hold them, about equally full."""
    total = sum(len(key) + len(value) + ENTRY_OVERHEAD for key, value in entries)
    if total <= CAPACITY:
        return [entries]
    target = total / -(-total // CAPACITY)
    nodes: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        more = entry_size(*entry)
        if nodes[-1] and (size + more > CAPACITY or size >= target):
            nodes.append([])
            size = 0
        nodes[-1].append(entry)
        size += more
    return nodes


def merged(entries: list[Entry], changes: Changes) -> list[Entry]:
    """The entries of a leaf after changes in the order of their keys."""
    result = dict(entries)
    for key, value in changes:
        if value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return sorted(result.items())


class Tree:
    """The tree from `root` on, `levels` high; `generation` is that of the next checkpoint, in which nodes are written.

    Raises CorruptStore where a node makes no sense, StoreFull without a free page, VolumeError when the disk fails.
    """

    def __init__(self, cache: BlockCache, geometry: Geometry, space: Space, seal: Seal) -> None:
        self._cache = cache
        self._geometry = geometry
        self._space = space
        self._seal = seal
        self.root = NodePointer(0, 0)
        self.levels = 1
        self.keys = 0
        self.generation = 1

    async def plant(self) -> None:
        """Begin with an empty leaf."""
        self.root = (await self._write(None, 0, []))[0].pointer

    # Looking.

    async def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        entries, _ = await self.leaf(key)
        place = bisect_left(entries, key, key=_KEY)
        return entries[place][1] if place < len(entries) and entries[place][0] == key else None

    async def leaf(self, key: bytes) -> tuple[list[Entry], bytes | None]:
        """The entries of the leaf in which a key is or would be, and the key from which on another leaf has them."""
        pointer, end = self.root, None
        for level in range(self.levels - 1, 0, -1):
            entries = await self.read(pointer, level)
            place = _place(entries, key)
            if place + 1 < len(entries):
                end = entries[place + 1][0]
            pointer = unpack_pointer(entries[place][1])
        return await self.read(pointer, 0), end

    # Changing.

    def most_pages(self, changes: Changes) -> int:
        """How many pages changes take at most before the old ones are free: of each node on the way a copy, one more if it
        is divided for another entry and one if its neighbour is drawn in, and what the new entries fill by themselves."""
        size = sum(entry_size(key, value or b"") for key, value in changes)
        copied = min(len(changes) * self.levels, self._space.used)
        return 3 * copied + 2 * -(-size // CAPACITY) + self.levels + 2

    async def change(self, changes: Changes) -> None:
        """Make changes in the order of their keys, each key once; None deletes one."""
        children = await self._change(self.root, self.levels - 1, changes)
        while len(children) > 1:
            children = await self._write(None, self.levels, _entries_of(children))
            self.levels += 1
        if not children:
            self.levels = 1
            children = await self._write(None, 0, [])
        self.root = children[0].pointer
        while self.levels > 1:
            entries = await self.read(self.root, self.levels - 1)
            if len(entries) > 1:
                break
            self._free(self.root)
            self.root = unpack_pointer(entries[0][1])
            self.levels -= 1

    async def _change(self, pointer: NodePointer, level: int, changes: Changes) -> list[_Child]:
        """Make changes below a node; gives the nodes that are there instead of it."""
        entries = await self.read(pointer, level)
        if not level:
            after = merged(entries, changes)
            self.keys += len(after) - len(entries)
            return await self._write(pointer, 0, after) if after else self._gone(pointer)
        children: list[_Child] = []
        done = 0
        for place, (key, value) in enumerate(entries):
            end = len(changes)
            if place + 1 < len(entries):
                end = bisect_left(changes, entries[place + 1][0], lo=done, key=_KEY)
            child = unpack_pointer(value)
            if done < end:
                children += await self._change(child, level - 1, changes[done:end])
            else:
                children.append(_Child(key, child))
            done = end
        children = await self._join_small(children, level - 1)
        return await self._write(pointer, level, _entries_of(children)) if children else self._gone(pointer)

    async def _join_small(self, children: list[_Child], level: int) -> list[_Child]:
        """Join each small node with a neighbour, or divide their entries anew."""
        place = 0
        while len(children) > 1 and place < len(children):
            child = children[place]
            if child.size is not None and child.size < _SMALL:
                left = max(place - 1, 0)
                pair = children[left : left + 2]
                entries = [entry for one in pair for entry in await self.read(one.pointer, level)]
                self._free(pair[1].pointer)
                joined = await self._write(pair[0].pointer, level, entries)
                children[left : left + 2] = joined
                place = left + len(joined)
            else:
                place += 1
        return children

    # Nodes.

    async def read(self, pointer: NodePointer, level: int) -> list[Entry]:
        """The entries of a node, which must be of this level."""
        page = pointer.page
        if not self._geometry.nodes_begin <= page < self._geometry.pages:
            raise CorruptStore(f"A node of the store is said to be in page {page}, where there are none.")
        data = await self._cache.read(page)
        count = self._seal.check_page(data, page, pointer.generation, PageKind.NODE, level)
        return unpack_entries(data, count)

    async def _write(self, pointer: NodePointer | None, level: int, entries: list[Entry]) -> list[_Child]:
        """Write the entries of one node, in place of the one at `pointer`, into as many as it takes."""
        children = []
        for part in divide(entries):
            if pointer is not None and self._space.is_fresh(pointer.page):
                page = pointer.page
            else:
                if pointer is not None:
                    self._free(pointer)
                page = self._space.take()
            pointer = None
            body = pack_entries(part)
            await self._cache.write(
                page, self._seal.page(page, self.generation, PageKind.NODE, level, len(part), body), fresh=True
            )
            children.append(_Child(part[0][0] if part else b"", NodePointer(page, self.generation), len(body)))
        return children

    def _gone(self, pointer: NodePointer) -> list[_Child]:
        self._free(pointer)
        return []

    def _free(self, pointer: NodePointer) -> None:
        if self._space.let_go(pointer.page):
            self._cache.discard(pointer.page)


def _place(entries: list[Entry], key: bytes) -> int:
    """Which child a key is below: the last that does not begin behind it, or the first."""
    return max(bisect_right(entries, key, key=_KEY) - 1, 0)


def _entries_of(children: list[_Child]) -> list[Entry]:
    return [(child.key, child.pointer.pack()) for child in children]
