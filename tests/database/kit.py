"""Stores to test: on a volume of the real kernel, and on a file of a file system."""

import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from libos.database import Store, Transaction
from libos.database.check import check
from libos.storage.volume import Volume
from tests.storage.kit import DiskMachine

T = TypeVar("T")
SECTORS = 1024
LOG_PAGES = 4
Contents = dict[bytes, bytes]


def on_disk(main: Callable[[Volume], Coroutine[Any, Any, T]], sectors: int = SECTORS, image: bytes | None = None) -> T:
    """What `main` gives, over a disk of its own."""
    with DiskMachine(sectors) as machine:
        if image is not None:
            machine.load(image)
        return machine.run(main)


async def contents(store: Store) -> Contents:
    """Everything in a store, which is looked at as a whole on the way."""
    await check(store)
    async with store.transaction() as transaction:
        return {key: value async for key, value in transaction.scan()}


async def put(store: Store, **pairs: str) -> None:
    """One transaction."""
    async with store.transaction() as transaction:
        for key, value in pairs.items():
            await transaction.put(key.encode(), value.encode())


async def raised(kind: type[Exception], action: Awaitable[object]) -> str:
    """The message of the error that an action must raise."""
    try:
        await action
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


async def random_changes(transaction: Transaction, model: Contents, rng: random.Random, keys: int, size: int) -> None:
    """A few puts and deletes, in the store and in the model."""
    for _ in range(rng.randrange(1, 7)):
        key = b"key %d" % rng.randrange(keys)
        if rng.random() < 0.4:
            assert await transaction.delete(key) == (key in model)
            model.pop(key, None)
        else:
            value = rng.randbytes(rng.randrange(size))
            await transaction.put(key, value)
            model[key] = value
