"""What a store cannot do, in a sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

from libos.storage.volume import VolumeError


class DatabaseError(Exception):
    """The store refuses, or cannot go on; the message says what was wrong.  Nothing committed is lost by it."""


class StoreFull(DatabaseError):
    """The transaction does not fit; nothing of it has been done."""


class CorruptStore(DatabaseError):
    """What is on the disk makes no sense; the message says what and where."""


@contextmanager
def sentences() -> Iterator[None]:
    """What the storage could not do inside is a DatabaseError."""
    try:
        yield
    except VolumeError as error:
        raise DatabaseError(str(error)) from None
