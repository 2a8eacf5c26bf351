"""Finds the primes below a number in demand-paged memory: sieve [BELOW].

The numbers are bytes of the program's own memory, which it reaches by loads and stores that page-fault: each prime's
multiples are crossed out page by page from one end to the other, over and over, which is the loop that defeats LRU.
"""

from collections.abc import Sequence
from math import isqrt

from exokernel.abi.layout import PAGE_SIZE
from libos.python_programs import LinkedExo


async def main(exo: LinkedExo, arguments: Sequence[str]) -> int:
    """Print how many primes there are and the last; status 2 for a wrong argument, 1 if there is no room."""
    text = arguments[0] if arguments else "100000"
    if not text.isdecimal() or int(text) < 3 or len(arguments) > 1:
        await exo.console_write(b"sieve: the argument is a number of at least 3, and the only one.\n")
        return 2
    below = int(text)
    numbers = await exo.os_region(below)
    if not numbers:
        await exo.console_write(b"sieve: there is no room for so many numbers.\n")
        return 1
    await exo.write(numbers, b"\1\1")
    for candidate in range(2, isqrt(below - 1) + 1):
        if await exo.read(numbers + candidate, 1) == b"\0":
            await _cross_out(exo, numbers, candidate, below)
    count, last = 0, 0
    for begin in range(0, below, PAGE_SIZE):
        page = await exo.read(numbers + begin, min(PAGE_SIZE, below - begin))
        await exo.charge(len(page))
        count += page.count(0)
        if 0 in page:
            last = begin + page.rindex(0)
    await exo.console_write(f"{count} primes below {below}, the last is {last}\n".encode())
    return 0


async def _cross_out(exo: LinkedExo, numbers: int, prime: int, below: int) -> None:
    """Cross out the multiples of a prime that smaller primes have left, a page at a time."""
    multiple = prime * prime
    while multiple < below:
        begin = multiple & -PAGE_SIZE
        page = bytearray(await exo.read(numbers + begin, min(PAGE_SIZE, below - begin)))
        crossed = range(multiple - begin, len(page), prime)
        page[crossed.start :: prime] = b"\1" * len(crossed)
        await exo.charge(len(crossed))
        await exo.write(numbers + begin, bytes(page))
        multiple += len(crossed) * prime
