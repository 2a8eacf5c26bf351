"""Moves money between accounts in a database on sectors of its own: ledger [TRANSFERS [SEED]].

The program takes sectors from the kernel and gives them to a store, with no file system in between.  Each transfer is a
transaction: both balances change, or neither.  One that an account has not the money for raises an exception within the
transaction, which undoes what it has done so far.  In the end the store is left as a power cut would leave it and opened
again, and the sum of all balances must be what it was.
"""

import random
from collections.abc import Sequence

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from libos.database import DatabaseError, Store, Transaction
from libos.storage.volume import Volume

ACCOUNTS = 100
BALANCE = 100
SECTORS = 4096


class NotEnough(Exception):
    """The account has less than what is to be moved."""


async def main(exo: Exo, arguments: Sequence[str]) -> int:
    """Make the transfers and print what became of them; status 2 for wrong arguments, 1 if it does not work."""
    if len(arguments) > 2 or not all(text.isdecimal() for text in arguments):
        await exo.console_write(b"ledger: the arguments are two numbers, of transfers and the seed, and may be left out.\n")
        return 2
    transfers, seed = (*map(int, arguments), *(200, 1)[len(arguments) :])
    try:
        storage = Volume(exo, await exo.alloc_sectors(SECTORS), SECTORS)
        store = await Store.create(storage)
        await _open_accounts(store)
        refused = await _transfer(store, transfers, random.Random(seed))
        await store.give_up()
        store = await Store.open(storage)
        balances = await _balances(store)
        await store.close()
    except (DatabaseError, Refused) as error:
        await exo.console_write(f"ledger: {error}\n".encode())
        return 1
    text = f"{transfers} transfers, {refused} of them undone: {len(balances)} accounts with {sum(balances)} together, "
    await exo.console_write(f"{text}{min(balances)} to {max(balances)} each\n".encode())
    return 0 if sum(balances) == ACCOUNTS * BALANCE else 1


async def _open_accounts(store: Store) -> None:
    async with store.transaction() as transaction:
        for account in range(ACCOUNTS):
            await transaction.put(_key(account), b"%d" % BALANCE)


async def _transfer(store: Store, transfers: int, chance: random.Random) -> int:
    """Move random amounts; gives how often there was not enough to move."""
    refused = 0
    for _ in range(transfers):
        source, target = chance.sample(range(ACCOUNTS), 2)
        amount = chance.randrange(1, 2 * BALANCE)
        try:
            async with store.transaction() as transaction:
                await _add(transaction, target, amount)
                await _add(transaction, source, -amount)
        except NotEnough:
            refused += 1
    return refused


async def _add(transaction: Transaction, account: int, amount: int) -> None:
    balance = int(await transaction.get(_key(account)) or b"0") + amount
    if balance < 0:
        raise NotEnough
    await transaction.put(_key(account), b"%d" % balance)


async def _balances(store: Store) -> list[int]:
    async with store.transaction() as transaction:
        return [int(balance) async for _, balance in transaction.scan()]


def _key(account: int) -> bytes:
    return b"account %03d" % account
