"""Built files on the host's disk, under names derived from everything they were made of.

A file appears in the store by one rename, when it is complete and on the disk; so whoever finds a name has the whole
file, whatever else runs at the same time and wherever a build was broken off.  Nothing in the store is ever changed.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from exokernel.build.errors import BuildError


def store_directory() -> Path:
    """$EXOKERNEL_CACHE, else `exokernel` in the user's cache directory.  Raises BuildError if there is neither."""
    if chosen := os.environ.get("EXOKERNEL_CACHE"):
        return Path(chosen).absolute()
    user = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if user.is_absolute():
        return user / "exokernel"
    try:
        return Path.home() / ".cache" / "exokernel"
    except RuntimeError:
        raise BuildError("Built guests have no place, as there is no home directory: set EXOKERNEL_CACHE.") from None


def digest(parts: Iterable[str | bytes]) -> str:
    """32 hexadecimal digits that differ when any part differs; where one part ends and the next begins counts."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()[:32]


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory for one build, on the same file system as the store; it goes when the block ends.

    Raises BuildError if the store cannot be written.
    """
    store = store_directory()
    try:
        store.mkdir(parents=True, exist_ok=True)
        directory = TemporaryDirectory(prefix="building-", dir=store)
    except OSError as error:
        raise _not_kept(store, error) from None
    with directory as path:
        yield Path(path)


def publish(file: Path, target: Path) -> Path:
    """Move a complete file from a scratch directory to its place in the store; gives the place.

    Raises BuildError if the store cannot be written.
    """
    try:
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
    except OSError as error:
        raise _not_kept(target.parent, error) from None
    return target


def publish_text(text: str, target: Path) -> Path:
    """The same for a text, unless it is there already."""
    if not target.is_file():
        with scratch() as directory:
            file = directory / target.name
            file.write_text(text)
            publish(file, target)
    return target


def _not_kept(place: Path, error: OSError) -> BuildError:
    return BuildError(
        f"Built guests cannot be kept in {place} ({error.strerror}): "
        "set EXOKERNEL_CACHE to a directory that can be written."
    )
