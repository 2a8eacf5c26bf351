"""A file a run writes, whose errors are sentences for the user."""

from pathlib import Path
from typing import TextIO


class OutputError(Exception):
    """The file cannot be written; the message says which and why."""


class Output:
    """A text file, open until `close`, which may be called again.  Raises OutputError when the host refuses."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None
        try:
            self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115 - open until close()
        except OSError as error:
            raise self._refused(error) from None

    def write(self, text: str) -> None:
        """Append text."""
        assert self._file is not None
        try:
            self._file.write(text)
        except OSError as error:
            raise self._refused(error) from None

    def close(self) -> None:
        """Write what is left and close the file."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as error:
                raise self._refused(error) from None

    def _refused(self, error: OSError) -> OutputError:
        return _error(self._path, error)


def check_writable(path: Path) -> None:
    """Find out before long work whether its result can be written.  Raises OutputError."""
    try:
        path.open("ab").close()
    except OSError as error:
        raise _error(path, error) from None


def _error(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path} cannot be written: {error.strerror}; name another file.")
