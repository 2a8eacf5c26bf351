"""Looks at a whole store: what `e2fsck` is to a file system."""

from libos.database.errors import CorruptStore, sentences
from libos.database.format import NodePointer, unpack_pointer
from libos.database.store import Store


async def check(store: Store) -> None:
    """Read every node: keys in order and below the right parent, each page used once, none used by nobody, and as many keys
    as the superblock says.  Raises CorruptStore with the first thing that is wrong.  To be called outside transactions."""
    tree, space, geometry = store.tree, store.space, store.geometry
    seen: set[int] = set()
    keys = 0
    waiting: list[tuple[int, NodePointer, bytes, bytes | None]] = [(tree.levels - 1, tree.root, b"", None)]
    while waiting:
        level, pointer, begin, end = waiting.pop()
        page = pointer.page
        with sentences():
            entries = await tree.read(pointer, level)
        if page in seen:
            raise CorruptStore(f"Page {page} of the store is used twice.")
        if not space.is_used(page):
            raise CorruptStore(f"Page {page} of the store is in the tree, but the map says that it is free.")
        seen.add(page)
        names = [key for key, _ in entries]
        if names != sorted(set(names)):
            raise CorruptStore(f"The keys in page {page} of the store are not in order.")
        if names and (names[0] < begin or (end is not None and names[-1] >= end)):
            raise CorruptStore(f"Page {page} of the store has a key that belongs into another.")
        if not names and tree.levels > 1:
            raise CorruptStore(f"Page {page} of the store is empty.")
        if not level:
            keys += len(names)
            continue
        for place, (key, value) in enumerate(entries):
            below = entries[place + 1][0] if place + 1 < len(entries) else end
            waiting.append((level - 1, unpack_pointer(value), key if place else begin, below))
    if keys != tree.keys:
        raise CorruptStore(f"The store has {keys} keys, and says that it has {tree.keys}.")
    known = len(seen) + space.leaving
    used = geometry.pages - geometry.nodes_begin - space.free
    if known != used:
        raise CorruptStore(f"{used} pages of the store are marked as used, but {known} are.")
