"""The fenced blocks of a Markdown file, for tests that run them in order in one directory.

    ```python title="mypager.py"    (or any other language) is a file to write
    ```console                      is commands and what they print
    ```anything else                is only read

In a console block a line that begins with `$ ` is given to the shell, with the lines that a backslash at its end joins
to it; `exo` and `python` are this project's.  The lines up to the next command are what it prints, standard error
included.  A line `...` stands for any number of lines.

How many instructions a program takes depends on the compiler.  A document says in a comment, `<!-- compiler: ... -->`,
whose numbers it has; with another compiler numbers and bytes are not compared, and everything else is.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exokernel.build.compiler import find_compiler

ROOT = Path(__file__).resolve().parents[2]
_TITLE = re.compile(r'title="([^"]+)"')
_NUMBER = re.compile(r"\b(?:0x)?[0-9a-f]*\d[0-9a-f,.]*\b")


@dataclass(frozen=True)
class Block:
    """A fenced block: `first` and `past` are the places of its contents in the document's lines."""

    language: str
    title: str
    lines: tuple[str, ...]
    first: int
    past: int

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True)
class Command:
    """A command of a console block and what the document says it prints."""

    text: str
    written: tuple[str, ...]
    expected: tuple[str, ...]


def blocks(document: str) -> Iterator[Block]:
    """The fenced blocks of a document in order."""
    lines = document.split("\n")
    begin: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith("```"):
            continue
        if begin is None:
            begin = number
            continue
        heading = lines[begin].removeprefix("```")
        title = _TITLE.search(heading)
        contents = tuple(lines[begin + 1 : number])
        yield Block(heading.split(" ")[0], title[1] if title else "", contents, begin + 1, number)
        begin = None
    assert begin is None, "a fenced block is not closed"


def commands(block: Block) -> list[Command]:
    """The commands of a console block."""
    found: list[tuple[list[str], list[str]]] = []
    goes_on = False
    for line in block.lines:
        if line.startswith("$ "):
            found.append(([line], []))
        elif goes_on:
            found[-1][0].append(line)
        else:
            found[-1][1].append(line)
        goes_on = line.endswith("\\") and (line.startswith("$ ") or goes_on)
    return [Command("\n".join(words)[2:], tuple(words), tuple(output)) for words, output in found]


def same_compiler(document: str) -> bool:
    """Whether the document's numbers are those of the compiler on this computer."""
    named = re.search(r"<!-- compiler: (.*?) -->", document)
    return named is not None and find_compiler().identity.startswith(named[1])


def agree(expected: tuple[str, ...], printed: tuple[str, ...], exactly: bool) -> bool:
    """Whether what was printed is what the document says.  With other numbers, tables may be in another order."""
    if not exactly and "..." not in expected:
        said, heard = (sorted(_comparable(line, exactly) for line in lines) for lines in (expected, printed))
        return said == heard
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(_comparable(line, exactly)) + r"\n" for line in expected
    )
    return re.fullmatch(pattern, "".join(_comparable(line, exactly) + "\n" for line in printed)) is not None


def _comparable(line: str, exactly: bool) -> str:
    return line.rstrip() if exactly else " ".join(_NUMBER.sub("#", line).split())


class Shell:
    """Runs the commands of a document in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "work"
        self.directory.mkdir()
        tools = directory / "tools"
        tools.mkdir()
        for name, words in (("exo", "-m exokernel "), ("python", "")):
            (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n')
            (tools / name).chmod(0o755)
        self._variables = os.environ | {
            "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }

    def run(self, command: str) -> tuple[str, ...]:
        """What a command prints, line by line; the directory's own name is a dot."""
        done = subprocess.run(
            ["sh", "-c", command],
            cwd=self.directory,
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        printed = done.stdout.replace(f"{self.directory}/", "./")
        return tuple(line.rstrip() for line in printed.removesuffix("\n").split("\n")) if printed else ()

    def write(self, block: Block) -> None:
        """Make the file that a block shows."""
        (self.directory / block.title).write_text(block.text, encoding="utf-8")
