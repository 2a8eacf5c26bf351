"""Watches a machine for deaths, and stops it at the moment the user wants to see.

A death is an end that the kernel decides, or one that a library OS reports by an exit status from 128 on, as shells do.
"""

import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from exokernel.abi.upcalls import Upcall
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import Context, Environment
from exokernel.kernel.kernel import Kernel
from exokernel.observe import explain

FIRST_FATAL_STATUS = 128
_OURS = tuple(str(Path(__file__).resolve().parents[2] / package) for package in ("exokernel", "libos"))


@dataclass(frozen=True)
class _Raised:
    """The last up-call of an environment: its arguments, and the registers it interrupted."""

    upcall: Upcall
    arguments: tuple[int, ...]
    words: Sequence[int]

    @property
    def call(self) -> str:
        return f"{self.upcall.name.lower()}({', '.join(hex(argument) for argument in self.arguments)})"


class Watch:
    """Puts itself in the way of the kernel's methods; `names` are the titles of environments, as they become known.

    `deaths` are texts by environment.  `explanation` is the machine at the moment it was stopped: with `stop_on`
    "death" the first death, with "upcall" the first up-call.
    """

    def __init__(self, kernel: Kernel, stop_on: str, names: Mapping[int, str]) -> None:
        self.deaths: dict[int, str] = {}
        self.explanation = ""
        self._kernel, self._stop_on, self._names = kernel, stop_on, names
        self._last: dict[int, _Raised] = {}
        self._kill = kernel.kill
        kernel.kill = self._watched_kill  # type: ignore[method-assign]
        if stop_on:
            self._end, self._push, self._start = kernel.end, kernel.upcalls.push, kernel.upcalls.start_handler
            kernel.end = self._watched_end  # type: ignore[method-assign]
            kernel.upcalls.push = self._watched_push  # type: ignore[method-assign]
            kernel.upcalls.start_handler = self._watched_start  # type: ignore[method-assign]

    def _stop(
        self, environment: Environment, words: Sequence[int] | None, headline: str, where: int | None, access: int
    ) -> None:
        if not self.explanation:
            name = self._names.get(environment.number, "")
            self.explanation = explain.moment(self._kernel, environment, name, words, headline, where, access)
            self._kernel.stop_requested = True

    def _watched_kill(
        self,
        environment: Environment,
        context: Context | None,
        cause: Cause,
        detail: str = "",
        where: int | None = None,
        access: int = 0,
    ) -> None:
        error = sys.exception() if cause in (Cause.RAISED, Cause.WATCHDOG) else None
        if error is not None:
            detail += _place(error)
        if self._stop_on == "death":
            words = context.machine.words if context is not None and context.machine is not None else None
            headline = cause.value + (f": {detail}" if detail else "")
            self._stop(environment, words, headline, where, access)
        before = len(self._kernel.deaths)
        self._kill(environment, context, cause, detail, where, access)
        for death in self._kernel.deaths[before:]:
            name = self._names.get(death.environment, "")
            self.deaths[death.environment] = explain.death(death, name)

    def _watched_end(self, environment: Environment, status: int) -> None:
        if self._stop_on == "death" and status >= FIRST_FATAL_STATUS:
            last = self._last.get(environment.number)
            headline = f"it ended with status {status}"
            if last is None:
                self._stop(environment, None, headline, None, 0)
            else:
                self._stop(environment, last.words, f"{headline}; its last up-call was {last.call}", *_fault(last))
        self._end(environment, status)

    def _watched_push(self, environment: Environment, context: Context, upcall: Upcall, arguments: tuple[int, ...]) -> None:
        self._raised(environment, context, upcall, arguments)
        self._push(environment, context, upcall, arguments)

    def _watched_start(
        self, environment: Environment, context: Context | None, upcall: Upcall, arguments: tuple[int, ...]
    ) -> Context | None:
        self._raised(environment, context, upcall, arguments)
        return self._start(environment, context, upcall, arguments)

    def _raised(
        self, environment: Environment, context: Context | None, upcall: Upcall, arguments: tuple[int, ...]
    ) -> None:
        words = tuple(context.machine.words) if context is not None and context.machine is not None else ()
        last = self._last[environment.number] = _Raised(upcall, arguments, words)
        if self._stop_on == "upcall":
            self._stop(environment, words, f"the kernel is about to make the up-call {last.call}", *_fault(last))


def _fault(last: _Raised) -> tuple[int | None, int]:
    return (last.arguments[0], last.arguments[1]) if last.upcall is Upcall.PAGE_FAULT else (None, 0)


def _place(error: BaseException) -> str:
    """Where Python code raised an exception: the innermost line that is the user's, else the innermost of all."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(_OURS)] or list(frames)
    return f", at {users[-1].filename}:{users[-1].lineno} in {users[-1].name}" if users else ""
