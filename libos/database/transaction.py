"""A transaction: changes that are in memory alone until all of them are made."""

from bisect import bisect_left, insort
from collections.abc import AsyncIterator
from operator import itemgetter

from libos.database.errors import DatabaseError
from libos.database.format import KEY_MAXIMUM, VALUE_MAXIMUM
from libos.database.tree import Changes, Entry, Tree

_KEY = itemgetter(0)


class Transaction:
    """What `Store.transaction` gives: it sees the store with its own changes.  Keys are 1 to KEY_MAXIMUM bytes, values 0 to
    VALUE_MAXIMUM; anything else is a DatabaseError, and nothing has been changed by it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._changes: dict[bytes, bytes | None] = {}
        self._changed: list[bytes] = []
        self._open = True

    async def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None if it has none."""
        self._check_key(key)
        if key in self._changes:
            return self._changes[key]
        return await self._tree.get(key)

    async def put(self, key: bytes, value: bytes) -> None:
        """Give a key a value, whether it has one or not."""
        self._check_key(key)
        if len(value) > VALUE_MAXIMUM:
            raise DatabaseError(f"A value has up to {VALUE_MAXIMUM} bytes, not {len(value)}.")
        self._set(key, bytes(value))

    async def delete(self, key: bytes) -> bool:
        """Take a key away; gives whether it had a value."""
        there = await self.get(key) is not None
        if there:
            self._set(key, None)
        return there

    async def scan(self, begin: bytes = b"", end: bytes | None = None) -> AsyncIterator[Entry]:
        """Keys and values in the order of the keys, from `begin` on, those from `end` on left out.  What is changed while
        scanning may be seen or not."""
        self._check_open()
        following: bytes | None = begin
        while following is not None and (end is None or following < end):
            start = following
            entries, following = await self._tree.leaf(start)
            stop = following if end is None or (following is not None and following < end) else end
            for entry in self._seen(entries, start, stop):
                self._check_open()
                yield entry

    def finish(self) -> Changes:
        """The changes in the order of their keys; the transaction is of no use afterwards."""
        self._check_open()
        self._open = False
        return [(key, self._changes[key]) for key in self._changed]

    def _seen(self, entries: list[Entry], start: bytes, stop: bytes | None) -> list[Entry]:
        """The entries from `start` up to `stop` with the transaction's own changes."""
        last = len(entries) if stop is None else bisect_left(entries, stop, key=_KEY)
        seen: dict[bytes, bytes] = dict(entries[bisect_left(entries, start, key=_KEY) : last])
        last = len(self._changed) if stop is None else bisect_left(self._changed, stop)
        for key in self._changed[bisect_left(self._changed, start) : last]:
            value = self._changes[key]
            if value is None:
                seen.pop(key, None)
            else:
                seen[key] = value
        return sorted(seen.items())

    def _set(self, key: bytes, value: bytes | None) -> None:
        key = bytes(key)
        if key not in self._changes:
            insort(self._changed, key)
        self._changes[key] = value

    def _check_key(self, key: bytes) -> None:
        self._check_open()
        if not 1 <= len(key) <= KEY_MAXIMUM:
            raise DatabaseError(f"A key has 1 to {KEY_MAXIMUM} bytes, not {len(key)}.")

    def _check_open(self) -> None:
        if not self._open:
            raise DatabaseError("The transaction has ended; begin another.")
