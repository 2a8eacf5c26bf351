"""The tutorial does what it says: every file and command in it, in order; `blocks` tells how they are marked.

With EXO_UPDATE_DOCS=1 what the commands print is written into the document, except where it has a line `...`, and so is
the compiler's name.
"""

import os
import re
from pathlib import Path

import pytest

from exokernel.build.compiler import find_compiler
from tests.docs.blocks import ROOT, Shell, agree, blocks, commands, same_compiler

TUTORIAL = ROOT / "docs" / "tutorial.md"
RUN = [TUTORIAL, *(ROOT / "docs" / name for name in ("scenarios.md", "threads.md", "files.md", "figures.md"))]


@pytest.mark.skipif("EXO_UPDATE_DOCS" in os.environ, reason="the document is being written")
@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_every_command_of_a_document_prints_what_the_document_says(file: Path, tmp_path: Path) -> None:
    document = file.read_text(encoding="utf-8")
    exactly = same_compiler(document)
    shell = Shell(tmp_path)
    wrong = []
    for block in blocks(document):
        if block.title:
            shell.write(block)
        elif block.language == "console":
            for command in commands(block):
                printed = shell.run(command.text)
                if not agree(command.expected, printed, exactly):
                    wrong.append("\n".join([f"$ {command.text}", *printed, "but the document says", *command.expected]))
    assert not wrong, "\n\n".join([*wrong, "EXO_UPDATE_DOCS=1 pytest tests/docs writes what is printed into it"])


@pytest.mark.skipif("EXO_UPDATE_DOCS" not in os.environ, reason="writes the document")
@pytest.mark.parametrize("file", RUN, ids=lambda file: file.stem)
def test_a_document_is_brought_up_to_date(file: Path, tmp_path: Path) -> None:
    identity = " ".join(find_compiler().identity.split(" ")[:-1])
    document = re.sub(r"<!-- compiler: .*? -->", f"<!-- compiler: {identity} -->", file.read_text(encoding="utf-8"))
    shell, lines, shift = Shell(tmp_path), document.split("\n"), 0
    for block in blocks(document):
        if block.title:
            shell.write(block)
        elif block.language == "console":
            contents: list[str] = []
            for command in commands(block):
                printed = shell.run(command.text)
                contents += [*command.written, *(command.expected if "..." in command.expected else printed)]
            lines[block.first + shift : block.past + shift] = contents
            shift += len(contents) - (block.past - block.first)
    file.write_text("\n".join(lines), encoding="utf-8")


def test_the_pager_of_the_tutorial_has_at_most_twenty_lines() -> None:
    pager = next(block for block in blocks(TUTORIAL.read_text(encoding="utf-8")) if block.title == "mypager.py")
    assert len([line for line in pager.lines if line.strip()]) <= 20


def test_the_pagers_in_the_readme_are_those_of_the_tutorial() -> None:
    shown = [block.text for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")) if block.title]
    tried = {block.text for block in blocks(TUTORIAL.read_text(encoding="utf-8")) if block.title}
    assert shown
    assert set(shown) <= tried
