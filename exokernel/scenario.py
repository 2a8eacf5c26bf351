"""Scenarios: which programs run side by side on what machine, as an object, a TOML file or a command line.

    >>> Scenario((ProgramSpec("hello"),)).run().program("hello").output      # doctest: +SKIP
    b'hello, world\\n'

A scenario is data; the same scenario with the same images gives the same results, cycle for cycle.
"""

import hashlib
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from exokernel.abi.layout import MAXIMUM_MEMORY, MINIMUM_MEMORY, PAGE_SIZE, SECTOR_SIZE
from exokernel.names import size_in_bytes, unknown
from exokernel.policy.memory import MEMORY_POLICIES
from exokernel.results import Results

DEFAULT_LIBRARY = "native+clock"
MAXIMUM_DISK = 1 << 40


class ScenarioError(Exception):
    """The scenario makes no sense; the message says what and what to do."""


@dataclass(frozen=True)
class ProgramSpec:
    """One program.  `app` and `libos` are names or paths; `frames` bounds the pages its pager keeps resident (0: as many
    as the kernel gives); `quota` and `guarantee` are frames it may hold and is promised (0: no limit, no promise); `heap`
    is the address space for its memory, in bytes.  Arguments that name host files are attached to it, read-only."""

    app: str
    libos: str = DEFAULT_LIBRARY
    arguments: tuple[str, ...] = ()
    frames: int = 0
    quota: int = 0
    guarantee: int = 0
    heap: int = 32 << 20
    name: str = ""

    @property
    def title(self) -> str:
        """What reports call it."""
        return self.name or Path(self.app).stem


@dataclass(frozen=True)
class Scenario:
    """`memory` and `disk_size` in bytes; `disk` an image file instead of a disk in memory; `seed` for every random choice;
    `trace` and `record_references` files to write."""

    programs: tuple[ProgramSpec, ...]
    memory: int = 16 << 20
    disk_size: int = 256 << 20
    disk: Path | None = None
    global_policy: str = "largest"
    seed: int = 0
    quantum: int = 0
    trace: Path | None = None
    record_references: Path | None = None
    sample_held: int = 0
    """Record frames held every so many cycles; 0: not."""
    stop_on: str = ""
    """`death` or `upcall`: explain the machine at that moment."""
    settings: Mapping[str, int] = field(default_factory=dict)
    """Numbers of the kernel's mechanisms by name, see `exokernel.kernel.kernel.Settings`."""

    def check(self) -> None:
        """Raise ScenarioError if the numbers make no sense, UnknownName for an unknown policy."""
        if not self.programs:
            raise ScenarioError("No program was named; name one, for example: exo run hello")
        if not MINIMUM_MEMORY <= self.memory <= MAXIMUM_MEMORY or self.memory % PAGE_SIZE:
            raise ScenarioError(
                f"A memory of {self.memory} bytes makes no sense here; it is a multiple of {PAGE_SIZE} between "
                f"{MINIMUM_MEMORY >> 20}M and {MAXIMUM_MEMORY >> 20}M."
            )
        if self.disk is None and (not 0 <= self.disk_size <= MAXIMUM_DISK or self.disk_size % SECTOR_SIZE):
            raise ScenarioError(
                f"A disk of {self.disk_size} bytes makes no sense here; it is a multiple of {SECTOR_SIZE} of at most "
                f"{MAXIMUM_DISK >> 30}G."
            )
        if self.global_policy not in MEMORY_POLICIES:
            raise unknown("global policy", self.global_policy, MEMORY_POLICIES)
        if self.record_references is not None and len(self.programs) > 1:
            raise ScenarioError("References are recorded of one program alone; name a single one.")
        if self.stop_on not in ("", "death", "upcall"):
            raise ScenarioError(f"--stop-on knows death and upcall, not {self.stop_on}.")
        frames = self.memory // PAGE_SIZE
        for program in self.programs:
            if min(program.frames, program.quota, program.guarantee) < 0:
                raise ScenarioError(f"{program.title} was given a negative number of frames.")
            largest = max(program.frames, program.quota, program.guarantee)
            if largest > frames:
                raise ScenarioError(
                    f"{program.title} was given {largest} frames, but the machine has {frames}; "
                    f"use fewer or a larger --memory."
                )

    def run(self, **how: Any) -> Results:
        """Run it to the end.  `how` goes to `exokernel.session.Session`: a console sink, a progress callback.

        Raises ScenarioError, UnknownName, BuildError, LoadError, DiskError.
        """
        from exokernel.session import Session

        with Session(self, **how) as session:
            return session.run()

    def with_programs(self, change: Callable[[ProgramSpec], ProgramSpec]) -> "Scenario":
        """The same scenario with every program changed."""
        return replace(self, programs=tuple(change(program) for program in self.programs))


def parse_program(text: str) -> ProgramSpec:
    """`wordfreq --libos clock --frames 64 -- FILE`.  Raises ScenarioError."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ScenarioError(f"--env {text!r} cannot be read: {error}.") from None
    if not words:
        raise ScenarioError("--env was given no program.")
    options, arguments = words[1:], []
    if "--" in options:
        place = options.index("--")
        options, arguments = options[:place], options[place + 1 :]
    values: dict[str, Any] = {"app": words[0], "arguments": tuple(arguments)}
    if len(options) % 2:
        raise ScenarioError(f"--env {text!r}: {options[-1]} has no value; a program's own arguments come after --.")
    for option, value in zip(options[::2], options[1::2], strict=True):
        values[option.removeprefix("--")] = value
    return _program(values, f"--env {text!r}")


def _program(values: dict[str, Any], where: str) -> ProgramSpec:
    known = {one.name: one.type for one in fields(ProgramSpec)}
    converted: dict[str, Any] = {}
    for key, value in values.items():
        if key not in known:
            raise ScenarioError(f"{where}: {unknown('setting', key, known)}")
        try:
            if key == "heap":
                converted[key] = size_in_bytes(str(value), "heap")
            elif key in ("frames", "quota", "guarantee"):
                converted[key] = int(value)
            elif key == "arguments":
                converted[key] = tuple(str(argument) for argument in value)
            else:
                converted[key] = str(value)
        except (TypeError, ValueError):
            raise ScenarioError(f"{where}: {value!r} is no value for {key}.") from None
    if "app" not in converted:
        raise ScenarioError(f"{where}: no app is named.")
    return ProgramSpec(**converted)


def read_scenario(path: Path) -> Scenario:
    """A scenario from a TOML file: keys of `Scenario` with sizes as `64M`, and an `[[env]]` table for each program.

    Raises ScenarioError naming the file and what is wrong in it.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"The scenario {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"The scenario {path} is not TOML: {error}.") from None
    programs = data.pop("env", [])
    if not isinstance(programs, list) or not all(isinstance(one, dict) for one in programs):
        raise ScenarioError(f"{path}: the programs are [[env]] tables.")
    values: dict[str, Any] = {"programs": tuple(_program(one, f"{path}, [[env]] {i}") for i, one in enumerate(programs, 1))}
    known = {one.name for one in fields(Scenario)} - {"programs"}
    for written, value in data.items():
        key = written.replace("-", "_")
        if key not in known:
            raise ScenarioError(f"{path}: {unknown('setting', written, (name.replace('_', '-') for name in known))}")
        try:
            if key in ("memory", "disk_size"):
                value = size_in_bytes(str(value), written)
            elif key in ("disk", "trace", "record_references"):
                value = path.parent / str(value)
            elif key in ("seed", "quantum", "sample_held"):
                value = int(value)
        except (TypeError, ValueError) as error:
            raise ScenarioError(f"{path}: {error}") from None
        values[key] = value
    return Scenario(**values)


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
