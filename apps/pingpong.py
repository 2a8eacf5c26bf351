"""Two environments wake each other in turn: pingpong [ROUNDS].

Down-calls are all it takes: the first makes the second, and each counts the events that the other causes.  The price of
a round is that of two wakings, two waits and two changes of address space.
"""

from collections.abc import Sequence

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event
from exokernel.abi.layout import OWN_PAGE
from exokernel.abi.pages import OwnPage, offset_of


async def main(exo: Exo, arguments: Sequence[str]) -> int:
    """Play, and print the cycles of a round; status 2 for a wrong argument."""
    text = arguments[0] if arguments else "1000"
    if not text.isdecimal() or int(text) < 1 or len(arguments) > 1:
        await exo.console_write(b"pingpong: the argument is a number of rounds, at least 1, and the only one.\n")
        return 2
    rounds = int(text)
    number = OWN_PAGE + offset_of(OwnPage, "environment")
    parent = int.from_bytes(await exo.read(number, 8), "little")
    child = await exo.create_environment()
    await exo.start_coroutine(child, _answer(exo, parent, rounds))
    begin = await exo.time()
    for heard in range(rounds):
        await exo.wake(child)
        await exo.block(Event.WOKEN, heard)
    cycles = (await exo.time() - begin) // rounds
    status = await exo.block(Event.EXIT, child)
    await exo.console_write(f"{rounds} rounds, {cycles} cycles each\n".encode())
    return status


async def _answer(exo: Exo, parent: int, rounds: int) -> None:
    for heard in range(rounds):
        await exo.block(Event.WOKEN, heard)
        await exo.wake(parent)
