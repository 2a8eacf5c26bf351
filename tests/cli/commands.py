"""How the tests run `exo`: inside this process where that is enough, because starting Python takes longer."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from exokernel.cli import app

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def sentences(self) -> str:
        """What a command that was used wrongly says, without the name it begins with."""
        assert self.status == 2, (self.out, self.err)
        assert self.err.startswith("exo: ")
        assert self.err.count("\n") == 1
        return self.err.removeprefix("exo: ").strip()


def exo(*words: object) -> Ended:
    """Run a command; whatever it raises but its exit is an error of the test."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.exit_code, result.stdout, result.stderr)


def start(*words: object, python: str = "", errors_to: int = subprocess.PIPE, **environment: str) -> subprocess.Popen[str]:
    """A command in a process of its own, its output piped; `python` is run before it."""
    code = f"{python}\nimport sys\nsys.argv[0] = 'exo'\nfrom exokernel.cli import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env=_environment(environment),
        stdout=subprocess.PIPE,
        stderr=errors_to,
        text=True,
    )


def exo_process(*words: object, python: str = "", **environment: str) -> Ended:
    """The same, run to its end."""
    process = start(*words, python=python, **environment)
    out, err = process.communicate(timeout=60)
    return Ended(process.returncode, out, err)


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more}
