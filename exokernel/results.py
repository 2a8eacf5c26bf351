"""What a run gives back: plain data for tables, JSON and experiments."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class ProgramResult:
    """One environment's account.  Cycles include what the kernel did for it; `frames_held` is the most it held at once,
    page tables included; `overruns` are requests to release a processor that it did not meet in time; `evictions`,
    `swap_in` and `swap_out` (pages) are as its library counted them; `began_at` is the cycle in which init began to load
    it, 0 for a forked child."""

    name: str
    environment: int
    library: str
    exit_status: int
    instructions: int
    cycles: int
    finished_at: int
    faults: int
    evictions: int
    swap_in: int
    swap_out: int
    taken: int
    downcalls: int
    upcalls: int
    sectors_read: int
    sectors_written: int
    frames_held: int
    overruns: int = 0
    output: bytes = b""
    death: str = ""
    began_at: int = 0

    def as_json(self) -> dict[str, Any]:
        """For `--json`: the output as text."""
        return {**asdict(self), "output": self.output.decode("utf-8", "replace")}


@dataclass(frozen=True)
class Results:
    """A run: `cycles` of virtual time from switching on to the end, the programs in the order they were named, and
    forked children behind them; `outcome` says why it ended."""

    outcome: str
    cycles: int
    seed: int
    global_policy: str
    cpu_policy: str
    cpus: int
    memory_frames: int
    programs: tuple[ProgramResult, ...]
    images: dict[str, str] = field(default_factory=dict)
    held_over_time: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    """By environment: (cycle, frames held) whenever it changed noticeably; only if asked for."""

    def program(self, name: str) -> ProgramResult:
        """The first program of this name.  Raises KeyError."""
        for result in self.programs:
            if result.name == name:
                return result
        raise KeyError(name)

    @property
    def exit_status(self) -> int:
        """The highest exit status of any program."""
        return max((result.exit_status for result in self.programs), default=0)

    def as_json(self) -> dict[str, Any]:
        """For `--json`: the fields by their names."""
        return {
            "outcome": self.outcome,
            "cycles": self.cycles,
            "seed": self.seed,
            "global_policy": self.global_policy,
            "cpu_policy": self.cpu_policy,
            "cpus": self.cpus,
            "memory_frames": self.memory_frames,
            "images": self.images,
            "programs": [result.as_json() for result in self.programs],
            "held_over_time": {str(number): samples for number, samples in self.held_over_time.items()},
        }
