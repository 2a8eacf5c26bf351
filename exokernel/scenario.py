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

from exokernel.abi.layout import MAXIMUM_CPUS, MAXIMUM_MEMORY, MINIMUM_MEMORY, PAGE_SIZE, SECTOR_SIZE
from exokernel.machine.models import DRIVES
from exokernel.names import size_in_bytes, unknown
from exokernel.policy.disk import DISK_POLICIES
from exokernel.policy.memory import MEMORY_POLICIES
from exokernel.policy.processor import CPU_POLICIES
from exokernel.policy.scheduling import DEFAULT_TICKETS, MOST_TICKETS
from exokernel.results import Results
from libos.plan import FRAMES_MINIMUM

DEFAULT_LIBRARY = "native+clock"
MAXIMUM_DISK = 1 << 40


class ScenarioError(Exception):
    """The scenario makes no sense; the message says what and what to do."""


@dataclass(frozen=True)
class ProgramSpec:
    """One program.  `app` and `libos` are names or paths; `frames` bounds the pages its pager keeps resident (0: as
    many as the kernel gives); `quota` and `guarantee` are frames it may hold and is promised (0: no limit, no promise);
    `heap` is the address space for its memory, in bytes.  `tickets` is its weight for a CPU policy that shares in
    proportion, `reserve` the cycles of a processor it is promised in every so many, `slices` how many slices it may own,
    and `environments` how many living descendants it may have.  Arguments that name host files are attached to it,
    read-only.
    """

    app: str
    libos: str = DEFAULT_LIBRARY
    arguments: tuple[str, ...] = ()
    frames: int = 0
    quota: int = 0
    guarantee: int = 0
    heap: int = 32 << 20
    tickets: int = DEFAULT_TICKETS
    reserve: tuple[int, int] = (0, 0)
    slices: int = 16
    environments: int = 256
    name: str = ""

    @property
    def title(self) -> str:
        """What reports call it."""
        return self.name or Path(self.app).stem

    def check(self, frames: int) -> None:
        """Raise ScenarioError if the numbers make no sense on a machine of so many frames."""
        if min(self.frames, self.quota, self.guarantee, self.heap) < 0:
            raise ScenarioError(f"{self.title} was given a negative number of frames or bytes.")
        if 0 < self.frames < FRAMES_MINIMUM:
            raise ScenarioError(
                f"{self.title} was given {self.frames} frames, but one instruction may need {FRAMES_MINIMUM} pages; "
                f"give it {FRAMES_MINIMUM} or more."
            )
        if not 1 <= self.tickets <= MOST_TICKETS:
            raise ScenarioError(f"{self.title} was given {self.tickets} tickets; they are 1 to {MOST_TICKETS:,}.")
        cycles, period = self.reserve
        if not 0 <= cycles <= period:
            raise ScenarioError(
                f"{self.title} cannot be promised {cycles} cycles in every {period}; write how many, and in how many."
            )
        if self.slices < 0 or self.environments < 0:
            raise ScenarioError(f"{self.title} was given a negative number of slices or environments.")
        largest = max(self.frames, self.quota, self.guarantee)
        if largest > frames:
            raise ScenarioError(
                f"{self.title} was given {largest} frames, but the machine has {frames}; use fewer or a larger --memory."
            )
        for text in (self.title, *self.arguments):
            if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ScenarioError(f"{text!r} cannot be handed to {self.title}; names and arguments are text in UTF-8.")


@dataclass(frozen=True)
class Scenario:
    """`memory` and `disk_size` in bytes; `disk` an image file, behind which the disk in memory lies then; `power_cut` the
    cycle in which the power goes (0: never), and the disk is left as that leaves it; `fs` the file system
    that is served to the programs (`exokernel.serving`), and `put` host files that are in it from the beginning
    (HOSTFILE:/PATH); `seed` for every random
    choice; `trace` and `record_references` files to write; `depth` is how many programs run at the same time at most, in
    their order (0: all)."""

    programs: tuple[ProgramSpec, ...]
    memory: int = 16 << 20
    disk_size: int = 1 << 30
    disk: Path | None = None
    disk_model: str = "ssd"
    disk_policy: str = "fcfs"
    power_cut: int = 0
    fs: str = ""
    put: tuple[str, ...] = ()
    global_policy: str = "largest"
    cpus: int = 1
    cpu_policy: str = "round-robin"
    seed: int = 0
    quantum: int = 0
    trace: Path | None = None
    record_references: Path | None = None
    depth: int = 0
    sample_held: int = 0
    """Record frames held every so many cycles; 0: not."""
    stop_on: str = ""
    """`death` or `upcall`: explain the machine at that moment."""
    settings: Mapping[str, float] = field(default_factory=dict)
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
        if not 0 <= self.disk_size <= MAXIMUM_DISK or self.disk_size % SECTOR_SIZE:
            raise ScenarioError(
                f"A disk of {self.disk_size} bytes makes no sense here; it is a multiple of {SECTOR_SIZE} of at most "
                f"{MAXIMUM_DISK >> 30}G."
            )
        if self.disk_model not in DRIVES:
            raise unknown("disk model", self.disk_model, DRIVES)
        if self.disk_policy not in DISK_POLICIES:
            raise unknown("disk policy", self.disk_policy, DISK_POLICIES)
        if self.fs or self.put:
            from exokernel import serving

            serving.check(self)
        if self.power_cut < 0:
            raise ScenarioError("The power is cut at a cycle, and not a negative one; 0 is never.")
        if self.global_policy not in MEMORY_POLICIES:
            raise unknown("global policy", self.global_policy, MEMORY_POLICIES)
        if self.cpu_policy not in CPU_POLICIES:
            raise unknown("CPU policy", self.cpu_policy, CPU_POLICIES)
        if not 1 <= self.cpus <= MAXIMUM_CPUS:
            raise ScenarioError(f"A machine with {self.cpus} processors cannot be had; it has 1 to {MAXIMUM_CPUS}.")
        if self.record_references is not None and len(self.programs) > 1:
            raise ScenarioError("References are recorded of one program alone; name a single one.")
        if self.stop_on not in ("", "death", "upcall"):
            raise ScenarioError(f"--stop-on knows death and upcall, not {self.stop_on}.")
        if not 0 <= self.seed < 1 << 64:
            raise ScenarioError(f"A seed of {self.seed} is too small or too large; it is a whole number below 2^64.")
        if self.depth < 0:
            raise ScenarioError("The depth is how many programs run at the same time, and not negative; 0 is all of them.")
        if self.quantum < 0 or self.sample_held < 0:
            raise ScenarioError("A quantum and the time between samples are cycles, and not negative.")
        self._check_settings()
        for program in self.programs:
            program.check(self.memory // PAGE_SIZE)
        promised, frames = sum(program.guarantee for program in self.programs), self.memory // PAGE_SIZE
        if promised > frames:
            raise ScenarioError(
                f"The programs are promised {promised} frames together, but the machine has {frames}; "
                "promise fewer or use a larger --memory."
            )

    def _check_settings(self) -> None:
        from exokernel.kernel.kernel import Settings

        known = [one.name for one in fields(Settings) if one.name != "cpus"]
        for name, value in self.settings.items():
            if name not in known:
                raise unknown("setting of the kernel", name, known)
            if value <= 0:
                raise ScenarioError(f"The setting {name} is more than 0, not {value}.")

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
    where = f"--env {text!r}"
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ScenarioError(f"{where} cannot be read: {error}.") from None
    if not words or words[0].startswith("-"):
        raise ScenarioError(f"{where} names no program; begin with one, such as --env 'hello --libos clock'.")
    options, arguments = words[1:], []
    if "--" in options:
        place = options.index("--")
        options, arguments = options[:place], options[place + 1 :]
    options = [part for word in options for part in (word.split("=", 1) if word.startswith("--") else [word])]
    values: dict[str, Any] = {}
    while options:
        option = options.pop(0)
        if not option.startswith("--"):
            raise ScenarioError(f"{where}: {option} is no option; a program's own arguments come after --.")
        if not options:
            raise ScenarioError(f"{where}: {option} has no value.")
        values[option.removeprefix("--")] = options.pop(0)
    for key in ("app", "arguments"):
        if key in values:
            raise ScenarioError(f"{where}: there is no option --{key}; write the program first and its arguments after --.")
    return ProgramSpec(words[0], arguments=tuple(arguments), **_converted(PROGRAM_SETTINGS, values, where))


def read_scenario(path: Path) -> Scenario:
    """A scenario from a TOML file: the settings of `SCENARIO_SETTINGS`, and an `[[env]]` table of `PROGRAM_SETTINGS`
    for each program.  File names mean what they mean at the command line.

    Raises ScenarioError naming the file and what is wrong in it.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ScenarioError(f"The scenario {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"The scenario {path} is not TOML: {error}.") from None
    tables = data.pop("env", [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise ScenarioError(f"{path}: write each program as a table [[env]].")
    programs = []
    for number, table in enumerate(tables, 1):
        values = _converted(PROGRAM_SETTINGS, table, f"{path}, [[env]] {number}")
        if "app" not in values:
            raise ScenarioError(f'{path}, [[env]] {number}: no program is named; write app = "hello" or another.')
        programs.append(ProgramSpec(**values))
    return Scenario(tuple(programs), **_converted(SCENARIO_SETTINGS, data, str(path)))


def _converted(known: Mapping[str, Callable[[Any], Any]], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Values as the fields of a dataclass have them.  Raises ScenarioError."""
    converted = {}
    for key, value in values.items():
        name = key.replace("_", "-")
        if name not in known:
            raise ScenarioError(f"{where}: {unknown('setting', key, known)}")
        try:
            converted[name.replace("-", "_")] = known[name](value)
        except ValueError as error:
            raise ScenarioError(f"{where}: {name} is {error}, not {value!r}.") from None
    return converted


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a text in quotes")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("a list of texts in quotes")
    return tuple(value)


def _whole(value: Any) -> int:
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError("a whole number")
    return value


def _size(value: Any) -> int:
    try:
        return size_in_bytes(str(_whole(value)) if isinstance(value, int) else _text(value), "")
    except ValueError:
        raise ValueError('a size such as "64M"') from None


def _numbers(value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or not all(type(number) in (int, float) for number in value.values()):
        raise ValueError("a table of numbers")
    return value


def _pair(value: Any) -> tuple[int, int]:
    words = value.split("/") if isinstance(value, str) else value
    try:
        cycles, period = (_whole(word) for word in words)
    except (TypeError, ValueError):
        raise ValueError('cycles in a period, such as "20000/100000"') from None
    return cycles, period


def _path(value: Any) -> Path:
    return Path(_text(value))


PROGRAM_SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "app": _text,
    "libos": _text,
    "arguments": _texts,
    "frames": _whole,
    "quota": _whole,
    "guarantee": _whole,
    "heap": _size,
    "tickets": _whole,
    "reserve": _pair,
    "slices": _whole,
    "environments": _whole,
    "name": _text,
}
SCENARIO_SETTINGS: Mapping[str, Callable[[Any], Any]] = {
    "memory": _size,
    "disk-size": _size,
    "disk": _path,
    "disk-model": _text,
    "disk-policy": _text,
    "power-cut": _whole,
    "fs": _text,
    "put": _texts,
    "global-policy": _text,
    "cpus": _whole,
    "cpu-policy": _text,
    "seed": _whole,
    "quantum": _whole,
    "trace": _path,
    "record-references": _path,
    "depth": _whole,
    "sample-held": _whole,
    "stop-on": _text,
    "settings": _numbers,
}


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
