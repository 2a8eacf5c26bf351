"""What the commands of `exo` have in common: how they fail, print JSON, and show that they are at work."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, NoReturn

import typer

from exokernel.names import UnknownName

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Seed = Annotated[int, typer.Option(help="The seed of every random choice.")]


def fail(message: object, status: int = 2) -> NoReturn:
    """Print one sentence to standard error and exit."""
    typer.echo(f"exo: {message}", err=True)
    raise SystemExit(status)


def print_json(value: Any) -> None:
    """JSON on standard output, keys in order."""
    typer.echo(json.dumps(value, indent=2, sort_keys=True))


@contextmanager
def sentences() -> Iterator[None]:
    """Whatever a user can cause ends the command with its sentence."""
    from exokernel.build.errors import BuildError
    from exokernel.machine.context import MachineError
    from exokernel.machine.disk import DiskError
    from exokernel.observe.output import OutputError
    from exokernel.scenario import ScenarioError
    from libos.image import LoadError

    try:
        yield
    except (ScenarioError, UnknownName, BuildError, LoadError, DiskError, MachineError, OutputError) as error:
        fail(error)
    except KeyboardInterrupt:
        fail("Interrupted.", 130)


class Progress:
    """A line on the terminal that is written over and disappears at the end; nothing if there is no terminal."""

    def __init__(self) -> None:
        self._shown = False
        self._terminal = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text[:100]}")
            sys.stderr.flush()
            self._shown = True

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False
