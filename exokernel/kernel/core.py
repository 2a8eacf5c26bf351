"""What the kernel is made of: the machine, the parts that protect it, and the account of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exokernel.abi.layout import PAGE_SHIFT
from exokernel.kernel.death import Death
from exokernel.kernel.environment import Environment
from exokernel.kernel.exposed import ExposedPages
from exokernel.kernel.frames import FrameTable
from exokernel.kernel.spaces import AddressSpaces
from exokernel.machine import costs
from exokernel.machine.clock import Clock
from exokernel.machine.console import Console
from exokernel.machine.cpu import Cpu, prepare_supervisor
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.disk_scheduling import READ_EXPIRY, WRITE_EXPIRY
from exokernel.policy.scheduling import CpuPolicy

if TYPE_CHECKING:
    from exokernel.kernel.requests import DiskRequests
    from exokernel.kernel.revocation import Revocation
    from exokernel.kernel.upcalls import UpcallDelivery

SUPERVISOR_FRAME = 1
"""Frame 0 stays unused, so that physical address 0 is never anybody's."""


@dataclass(frozen=True)
class Settings:
    """Numbers of the kernel's mechanisms, in cycles of virtual time."""

    cpus: int = 1
    window: int = 1_000
    """How far a processor may run ahead of the next one or of a timed event."""
    quantum: int = 100_000
    cpu_release_deadline: int = 5_000
    overruns_allowed: int = 3
    """In a row; one more is the end."""
    release_deadline: int = 200_000
    release_hard_limit: int = 20_000_000
    sample_every: int = 200_000
    disk_read_expiry: int = READ_EXPIRY
    disk_write_expiry: int = WRITE_EXPIRY
    """For a disk policy with deadlines."""
    watchdog_seconds: float = 10.0


class Core:
    """The parts, and the machine's own frames; what is done with them is in the classes above."""

    disk: DiskRequests
    upcalls: UpcallDelivery
    revocation: Revocation

    def __init__(
        self,
        memory: PhysicalMemory,
        make_cpu: Callable[[PhysicalMemory, int], Cpu],
        cpu_policy: CpuPolicy,
        console: Console | None,
        settings: Settings | None,
    ) -> None:
        self.memory = memory
        self.clock = Clock()
        self.console = console or Console()
        self.settings = settings or Settings()
        self.environments: dict[int, Environment] = {}
        self.ended: dict[int, Environment] = {}
        self.deaths: list[Death] = []
        self.python_errors: list[BaseException] = []
        self.first_environment = 0
        self.cpu_policy = cpu_policy
        self._boot(make_cpu)

    def _boot(self, make_cpu: Callable[[PhysicalMemory, int], Cpu]) -> None:
        """Lay out the machine's own frames: supervisor page and its tables, exposed pages and theirs; the rest is free."""
        memory = self.memory
        supervisor = SUPERVISOR_FRAME << PAGE_SHIFT
        next_frame = SUPERVISOR_FRAME + 1
        entry = prepare_supervisor(memory, supervisor)
        self.cpus: list[Cpu] = [make_cpu(memory, supervisor) for _ in range(self.settings.cpus)]
        self.exposed = ExposedPages(memory, next_frame)
        next_frame += ExposedPages.frames_needed(memory.frames)
        tables = range(next_frame, next_frame + AddressSpaces.tables_needed(memory.frames))
        self.spaces = AddressSpaces(memory, self.cpus, entry)
        self.frames = FrameTable(memory, tables.stop, self.exposed, self.spaces)
        self.spaces.frames, self.spaces.exposed = self.frames, self.exposed
        self.spaces.switch_on(tables)

    @property
    def flush_cost(self) -> int:
        """Cycles of making every processor forget a translation."""
        others = len(self.cpus) - 1
        return costs.TLB_FLUSH + (costs.TLB_SHOOTDOWN + costs.TLB_SHOOTDOWN_EACH * others if others else 0)

    def charge(self, environment: Environment, cycles: int) -> None:
        """The kernel works for `environment`: its account and the clock move on."""
        self.clock.now += cycles
        environment.accounts.kernel_cycles += cycles
        if environment.request is not None:
            self.revocation.ran(environment, cycles)
