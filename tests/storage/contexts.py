"""Several contexts of one environment at work at the same time, over the disk of a DiskMachine.

    results = together(machine, [first, second])        # async def first(volume) -> anything

The environment's library is in Python; each job runs in a context of its own, as the handler of a call.  What a job raises
is raised here.  `hog` is what another environment does meanwhile, and `release` answers the kernel's request for frames.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, FOREVER, SELF, Event, Rights, Sharing
from exokernel.abi.layout import OWN_PAGE
from exokernel.abi.pages import OwnPage, offset_of
from libos.storage.volume import Volume
from tests.storage.kit import DiskMachine

FRAMES = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.FRAMES
LOOK_EVERY, LOOKS = 500_000, 2_000
"""Cycles from one look to the next, and how many before the jobs are believed to hang."""
Job = Callable[[Volume], Awaitable[Any]]
Release = Callable[[int], Awaitable[int]]


class Restless(Exo):
    """Down-calls after which others of the environment may have their turn, as seeded chance has it."""

    def __init__(self, seed: int, probability: float = 0.3) -> None:
        self._random = random.Random(seed)
        self._probability = probability

    async def _pause(self) -> None:
        while self._random.random() < self._probability:
            await super().block(Event.TIME, 0, await super().time() + self._random.randint(1, 20_000))

    async def read(self, va: int, size: int) -> bytes:
        data = await super().read(va, size)
        await self._pause()
        return data

    async def read_if_mapped(self, va: int, size: int) -> bytes | None:
        data = await super().read_if_mapped(va, size)
        await self._pause()
        return data

    async def write_if_mapped(self, va: int, data: bytes) -> bool:
        done = await super().write_if_mapped(va, data)
        await self._pause()
        return done

    async def read_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        request = await super().read_sectors(sector, count, frame, offset, flags)
        await self._pause()
        return request

    async def write_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        request = await super().write_sectors(sector, count, frame, offset, flags)
        await self._pause()
        return request

    async def wake(self, env: int = SELF) -> int:
        result = await super().wake(env)
        await self._pause()
        return result

    async def alloc_page(self, frame: int = ANY, env: int = SELF) -> int:
        number = await super().alloc_page(frame, env)
        await self._pause()
        return number

    async def dealloc_page(self, frame: int, env: int = SELF) -> int:
        number = await super().dealloc_page(frame, env)
        await self._pause()
        return number


class Failing(Exo):
    """Requests for one sector fail."""

    def __init__(self, sector: int) -> None:
        self.sector: int | None = sector
        self._bad: set[int] = set()

    async def _note(self, sector: int, request: int) -> int:
        if sector == self.sector:
            self._bad.add(request)
        return request

    async def read_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        return await self._note(sector, await super().read_sectors(sector, count, frame, offset, flags))

    async def write_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        return await self._note(sector, await super().write_sectors(sector, count, frame, offset, flags))

    async def block(self, event: int, value: int, deadline: int = FOREVER) -> int:
        result = await super().block(event, value, deadline)
        if event == Event.DISK and value in self._bad:
            raise Refused(Error.IO_ERROR, "block")
        return result


class _Library:
    """Runs each job as a call comes for it."""

    def __init__(self, volume: Volume, jobs: Sequence[Job]) -> None:
        self._volume = volume
        self._jobs = jobs
        self.results: list[Any] = [None] * len(jobs)
        self.errors: list[BaseException] = []
        self.finished = 0

    async def call(self, context: int, caller: int, a: int, b: int, c: int, d: int, awaited: int) -> None:
        try:
            self.results[a] = await self._jobs[a](self._volume)
        except Exception as error:
            self.errors.append(error)
        self.finished += 1

    async def main(self) -> None:
        """Look now and then whether all have finished: waking would also wake those that should have been woken by the code
        that is tested."""
        exo = Exo()
        for _ in range(LOOKS):
            await exo.block(Event.TIME, 0, await exo.time() + LOOK_EVERY)
            if self.finished == len(self._jobs):
                return


class _Releasing(_Library):
    """One that gives frames back when it is asked."""

    def __init__(self, volume: Volume, jobs: Sequence[Job], release: Release) -> None:
        super().__init__(volume, jobs)
        self._release = release

    async def please_release_page(self, context: int, count: int, frame: int, deadline: int) -> None:
        try:
            await self._release(count)
        except Exception as error:
            self.errors.append(error)


def together(
    machine: DiskMachine, jobs: Sequence[Job], *, exo: Exo | None = None, release: Release | None = None,
    quota: int = ANY, hog: Callable[[], Awaitable[None]] | None = None,
) -> list[Any]:  # fmt: skip
    """Run the jobs at the same time; gives what they gave."""
    volume = Volume(exo or Exo(), 0, machine.sectors)
    library = _Library(volume, jobs) if release is None else _Releasing(volume, jobs, release)

    async def main(_: Volume) -> None:
        own = Exo()
        worker = await own.create_environment(quota)
        await own.share_sectors(0, worker, Sharing.LOAN, Rights.READ | Rights.WRITE)
        await own.set_library(worker, library)
        await own.start_coroutine(worker, library.main())
        others = []
        if hog is not None:
            others.append(await own.create_environment())
            await own.start_coroutine(others[0], hog())
        for index in range(len(jobs)):
            while True:
                try:
                    await own.send(worker, index)
                    break
                except Refused as refused:
                    if refused.error is not Error.BUSY:
                        raise
                    await own.yield_()
        await own.block(Event.EXIT, worker)
        for other in others:
            with suppress(Refused):
                await own.destroy(other)

    machine.run(main)
    if library.errors:
        raise library.errors[0]
    assert library.finished == len(jobs), f"some jobs hang, or have been ended: {machine.kernel.deaths}"
    return library.results
