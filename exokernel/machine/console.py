"""The console: bytes out, each piece marked with the environment it came from."""

from collections.abc import Callable


class Console:
    """Keeps what every environment wrote, and passes it on to `sink` as it comes."""

    def __init__(self, sink: Callable[[int, bytes], None] | None = None) -> None:
        self.written: dict[int, bytearray] = {}
        self._sink = sink

    def write(self, environment: int, text: bytes) -> None:
        """Append `text` to the environment's output."""
        self.written.setdefault(environment, bytearray()).extend(text)
        if self._sink is not None:
            self._sink(environment, text)
