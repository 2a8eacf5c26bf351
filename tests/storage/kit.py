"""A machine to run library code about the disk on: the real kernel and disk, coroutines in a first environment, and the
image before and after as bytes.

    with DiskMachine(sectors=8192) as machine:
        machine.load(image)
        result = machine.run(main)          # main: async def main(volume) -> anything
        image = machine.image()

A run is a boot: the environment holds every sector of the disk, and is gone afterwards.  What `main` raises is raised here.
"""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from exokernel.abi.downcalls import Exo
from exokernel.abi.layout import SECTOR_SIZE
from exokernel.kernel import calls
from exokernel.kernel.capabilities import EVERY_RIGHT
from exokernel.kernel.kernel import Kernel, Outcome, Settings
from exokernel.machine.cpu import FastCpu
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.machine.models import DRIVES
from exokernel.policy.disk import DISK_POLICIES
from exokernel.policy.memory import LargestHolder
from exokernel.policy.processor import CPU_POLICIES
from libos.storage.volume import Volume

assert calls.complete()
T = TypeVar("T")


class DiskMachine:
    """A kernel over `memory` bytes and a disk of `sectors`, of the model `drive`, or another `disk` instead."""

    def __init__(
        self,
        sectors: int,
        memory: int = 16 << 20,
        disk: Disk | None = None,
        drive: str = "ssd",
        disk_policy: str = "fcfs",
    ) -> None:
        self.memory = PhysicalMemory(memory)
        self.disk = disk or Disk(sectors, drive=DRIVES[drive])
        self.sectors = sectors
        settings = Settings(watchdog_seconds=60.0)
        policy = CPU_POLICIES["round-robin"](quantum=settings.quantum, seed=0, cpus=1)
        self.kernel = Kernel(
            self.memory, lambda memory, supervisor: FastCpu(memory, supervisor), self.disk, LargestHolder(), policy,
            settings=settings, disk_policy=DISK_POLICIES[disk_policy](self.disk.sectors),
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.kernel.close()
        self.disk.close()
        self.memory.close()

    def load(self, image: bytes) -> None:
        """Put an image onto the medium."""
        self.disk.write(0, image)

    def image(self) -> bytes:
        """What is on the medium."""
        return self.disk.read(0, self.sectors)

    def run(self, main: Callable[[Volume], Awaitable[T]]) -> T:
        """Run `main` to its end over a volume that is the whole disk; the medium is as `main` left it."""
        results: list[T] = []
        errors: list[BaseException] = []

        async def first() -> None:
            try:
                results.append(await main(Volume(Exo(), 0, self.sectors)))
            except Exception as error:
                errors.append(error)

        self.kernel.disk.attach(self.kernel.boot_coroutine(first), 0, self.sectors, EVERY_RIGHT)
        outcome = self.kernel.run()
        assert outcome is Outcome.ALL_ENDED
        if self.kernel.deaths and not results and not errors:
            death = self.kernel.deaths[-1]
            raise AssertionError(f"The environment was ended: {death}")
        if errors:
            raise errors[0]
        return results[0]


def run(sectors: int, main: Callable[[Volume], Awaitable[T]], image: bytes | None = None) -> tuple[T, bytes]:
    """One run over a disk of its own; gives what `main` gave and the image afterwards."""
    with DiskMachine(sectors) as machine:
        if image is not None:
            machine.load(image)
        result = machine.run(main)
        return result, machine.image()


__all__ = ["SECTOR_SIZE", "DiskMachine", "run"]
