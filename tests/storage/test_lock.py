"""The lock for readers and a writer: never a writer with anybody else, in the order of arrival, nobody waits for ever."""

import random
from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event
from libos.storage.lock import ReadersWriter
from libos.storage.volume import Volume
from tests.machine_kit import examples
from tests.storage.contexts import together
from tests.storage.kit import DiskMachine

SEEDS = st.integers(0, 1 << 16)


async def sleep(cycles: int) -> None:
    exo = Exo()
    await exo.block(Event.TIME, 0, await exo.time() + cycles)


@dataclass
class Room:
    """Who is inside, and who came and went in which order."""

    lock: ReadersWriter
    readers: int = 0
    writers: int = 0
    most_readers: int = 0
    came: list[tuple[int, bool]] = field(default_factory=list)
    entered: list[tuple[int, bool]] = field(default_factory=list)

    async def visit(self, number: int, alone: bool, cycles: int) -> None:
        self.came.append((number, alone))
        async with self.lock.exclusive() if alone else self.lock.shared():
            self.entered.append((number, alone))
            if alone:
                self.writers += 1
            else:
                self.readers += 1
            self.most_readers = max(self.most_readers, self.readers)
            assert self.writers <= 1
            assert not (self.writers and self.readers)
            assert self.lock.readers >= self.readers
            assert self.lock.writing is bool(self.writers)
            await sleep(cycles)
            assert not (self.writers and self.readers)
            if alone:
                self.writers -= 1
            else:
                self.readers -= 1


def in_order(visits: list[tuple[int, bool]]) -> list[list[int]]:
    """The writers one by one, and between them those readers who go in together, in any order."""
    groups: list[list[int]] = [[]]
    for number, alone in visits:
        groups += [[number], []] if alone else []
        if not alone:
            groups[-1].append(number)
    return [sorted(group) for group in groups]


@examples(60)
@given(st.integers(1, 8), SEEDS, st.floats(0, 1))
def test_a_writer_is_alone_and_all_enter_in_the_order_in_which_they_came(contexts: int, seed: int, share: float) -> None:
    with DiskMachine(8, memory=1 << 20) as machine:
        room = Room(ReadersWriter(Exo()))

        def job(number: int):  # noqa: ANN202
            rng = random.Random(seed + number)

            async def main(volume: Volume) -> None:
                for _ in range(6):
                    await sleep(rng.randint(1, 30_000))
                    await room.visit(number, rng.random() < share, rng.randint(1, 30_000))

            return main

        together(machine, [job(number) for number in range(contexts)])
        assert in_order(room.entered) == in_order(room.came)
        assert len(room.came) == 6 * contexts
        assert (room.lock.readers, room.lock.writing, room.lock.waiting) == (0, False, 0)


def test_readers_are_inside_together_and_a_writer_does_not_starve() -> None:
    with DiskMachine(8, memory=1 << 20) as machine:
        room = Room(ReadersWriter(Exo()))

        async def reader(volume: Volume) -> None:
            for _ in range(20):
                await room.visit(1, False, 10_000)

        async def writer(volume: Volume) -> None:
            await sleep(15_000)
            await room.visit(2, True, 1_000)

        together(machine, [reader, reader, reader, writer])
        assert room.most_readers >= 2
        assert room.entered.index((2, True)) < 15


def test_an_error_inside_lets_the_next_one_in() -> None:
    with DiskMachine(8, memory=1 << 20) as machine:
        lock = ReadersWriter(Exo())

        async def main(volume: Volume) -> None:
            for turn in (lock.exclusive(), lock.shared()):
                with pytest.raises(ZeroDivisionError):
                    async with turn:
                        raise ZeroDivisionError
            async with lock.exclusive():
                assert lock.writing
            assert not lock.writing

        machine.run(main)
