"""A run as a timeline in the Chrome trace format, which ui.perfetto.dev opens: environments as tracks, up-calls and
down-calls as slices, frames held as counters.

One microsecond of the timeline is 1,000 cycles.  Each processor is a process of the viewer, with the environments that ran
on it.  A down-call's slice is the time its answer took; the kernel does not see the end of a native up-call, so its slice
ends when the context next traps with the up-call's bit cleared, or when the environment or the run ends; `resume_cpu` and
`call`, which interrupt nothing, are not shown.  The same scenario gives the same file byte for byte; its first line names
the images by their hashes.
"""

import json
from pathlib import Path
from typing import Any

from exokernel.abi.downcalls import TABLE
from exokernel.abi.layout import CYCLES_PER_SECOND, MAXIMUM_CONTEXTS
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import exposed
from exokernel.kernel.environment import Context, Environment
from exokernel.kernel.kernel import Kernel
from exokernel.machine.context import MachineContext, Register, Trap
from exokernel.observe.output import Output

CYCLES_PER_MICROSECOND = CYCLES_PER_SECOND // 1_000_000


class Timeline:
    """Writes one file.  `attach` puts it in the way of the kernel's methods; `close` ends the file."""

    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        """Raises OutputError, as every method does, if the file cannot be written."""
        self._file = Output(path)
        self._file.write('{"otherData":' + json.dumps(header, sort_keys=True) + ',"traceEvents":[\n')
        self._first = True
        self._names: dict[int, str] = {}
        self._open: dict[int, list[tuple[int, Upcall]]] = {}
        self._told: set[tuple[int, int]] = set()
        self._shown: dict[int, int] = {}

    def _emit(self, **event: Any) -> None:
        text = ("" if self._first else ",\n") + json.dumps(event, sort_keys=True)
        self._first = False
        self._file.write(text)

    def name(self, environment: int, name: str) -> None:
        """Give a track its name; one that is not named by its first event is called by its number."""
        self._names[environment] = f"{name} (environment {environment})"
        self._tell(1, environment)

    def _tell(self, processor: int, environment: int) -> None:
        self._told.add((processor, environment))
        self._emit(ph="M", pid=processor, tid=environment, name="thread_name", args={"name": self._names[environment]})

    def _track(self, environment: Environment, processor: int = 1) -> int:
        if environment.number not in self._names:
            parent = self._names.get(environment.parent, "").partition(" (")[0]
            self.name(environment.number, f"child of {parent}" if parent else "init")
        if (processor, environment.number) not in self._told:
            self._tell(processor, environment.number)
        return environment.number

    def attach(self, kernel: Kernel) -> None:
        """Watch a kernel that has not run yet."""
        self._kernel = kernel
        answer, push, start_handler = kernel.answer, kernel.upcalls.push, kernel.upcalls.start_handler
        native, python, ended = kernel.native_call, kernel.python_call, kernel.upcalls.handler_ended
        end = kernel.end

        def watched_answer(environment: Environment, context: Context, machine: MachineContext, trap: Trap) -> None:
            self._close_upcalls(environment, context)
            answer(environment, context, machine, trap)
            self._counter(environment)

        def watched_native(kernel: Kernel, environment: Environment, context: Context, machine: MachineContext) -> None:
            row = TABLE.get(machine.words[Register.RAX])
            begin = kernel.clock.now
            native(kernel, environment, context, machine)
            self._slice(environment, row.name if row is not None else "unknown", begin, "down-call")

        def watched_python(
            kernel: Kernel, environment: Environment, context: Context, number: int, arguments: tuple[Any, ...]
        ) -> None:
            row = TABLE.get(number)
            begin = kernel.clock.now
            try:
                python(kernel, environment, context, number, arguments)
            finally:
                self._slice(environment, row.name if row is not None else "unknown", begin, "down-call")
                self._counter(environment)

        def watched_push(environment: Environment, context: Context, upcall: Upcall, arguments: tuple[int, ...]) -> None:
            self._begin(environment, context.number, upcall)
            push(environment, context, upcall, arguments)

        def watched_start(
            environment: Environment, context: Context | None, upcall: Upcall, arguments: tuple[int, ...]
        ) -> Context | None:
            handler = start_handler(environment, context, upcall, arguments)
            if handler is not None:
                self._begin(environment, handler.number, upcall)
            return handler

        def watched_end(environment: Environment, handler: Context) -> None:
            ended(environment, handler)
            if handler.upcall is not None and (handler.number, handler.upcall) in self._open.get(environment.number, []):
                self._end(environment.number, handler.number, handler.upcall)

        def watched_death(environment: Environment, status: int) -> None:
            for number, upcall in list(self._open.get(environment.number, [])):
                self._end(environment.number, number, upcall)
            end(environment, status)
            self._counter(environment)

        kernel.end = watched_death  # type: ignore[method-assign]
        kernel.answer = watched_answer  # type: ignore[method-assign]
        kernel.native_call, kernel.python_call = watched_native, watched_python
        kernel.upcalls.push = watched_push  # type: ignore[method-assign]
        kernel.upcalls.start_handler = watched_start  # type: ignore[method-assign]
        kernel.upcalls.handler_ended = watched_end  # type: ignore[method-assign]

    def _now(self) -> float:
        return self._kernel.clock.now / CYCLES_PER_MICROSECOND

    def _slice(self, environment: Environment, name: str, begin: int, category: str) -> None:
        start, duration = begin / CYCLES_PER_MICROSECOND, (self._kernel.clock.now - begin) / CYCLES_PER_MICROSECOND
        processor = self._kernel.processor.number + 1
        track = self._track(environment, processor)
        self._emit(ph="X", pid=processor, tid=track, ts=start, dur=duration, name=name, cat=category)

    def _upcall(self, phase: str, environment: int, context: int, upcall: Upcall) -> None:
        self._emit(
            ph=phase,
            pid=1,
            tid=environment,
            ts=self._now(),
            name=upcall.name.lower(),
            cat="up-call",
            id=(environment * MAXIMUM_CONTEXTS + context) * 16 + upcall,
        )

    def _begin(self, environment: Environment, context: int, upcall: Upcall) -> None:
        self._open.setdefault(environment.number, []).append((context, upcall))
        self._upcall("b", self._track(environment), context, upcall)

    def _end(self, environment: int, context: int, upcall: Upcall) -> None:
        self._open[environment].remove((context, upcall))
        self._upcall("e", environment, context, upcall)

    def _close_upcalls(self, environment: Environment, context: Context) -> None:
        running = self._open.get(environment.number)
        if running and environment.library is None:
            word = exposed.ACTIVE + exposed.CONTEXT_WORDS * context.number
            active = self._kernel.exposed.own_word(environment, word)
            for number, upcall in list(running):
                if number == context.number and not active >> upcall & 1:
                    self._end(environment.number, number, upcall)

    def _counter(self, environment: Environment) -> None:
        held = len(environment.held)
        if self._shown.get(environment.number) != held:
            self._shown[environment.number] = held
            name = f"frames held by {self._names[self._track(environment)]}"
            self._emit(ph="C", pid=1, ts=self._now(), name=name, args={"frames": held})

    def close(self) -> None:
        """End the file; it is complete even after an interrupted run."""
        try:
            for environment, running in self._open.items():
                for number, upcall in list(running):
                    self._end(environment, number, upcall)
            self._file.write("\n]}\n")
        finally:
            self._file.close()
