"""A circle of pages from which any can be removed in constant time."""

from collections.abc import Iterator


class Ring:
    """Pages in a circle, each once. Where one looks at it (the hand) is the business of its user."""

    def __init__(self) -> None:
        self._after: dict[int, int] = {}
        self._before: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._after)

    def after(self, page: int) -> int:
        """The page that follows `page`; itself if it is alone."""
        return self._after[page]

    def insert(self, page: int, before: int | None) -> None:
        """Put `page` just before `before`, which may be None only while the ring is empty."""
        if before is None:
            self._after[page] = self._before[page] = page
            return
        neighbour = self._before[before]
        self._after[neighbour] = self._before[before] = page
        self._before[page], self._after[page] = neighbour, before

    def remove(self, page: int) -> int | None:
        """Take `page` out and give the one that followed it, None if it was alone. Raises KeyError if it is absent."""
        after, before = self._after.pop(page), self._before.pop(page)
        if after == page:
            return None
        self._after[before], self._before[after] = after, before
        return after

    def once_around(self, start: int) -> Iterator[int]:
        """Every page once, from `start` on. The ring must not change meanwhile."""
        page = start
        for _ in range(len(self)):
            yield page
            page = self._after[page]
