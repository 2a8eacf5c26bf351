"""The demonstration's numbers in the documents are what it prints.

With EXO_UPDATE_DOCS=1 they are written into docs/figures.md and README.md; the sentences below the table are not, and
want reading again.
"""

import os
import re
from pathlib import Path
from textwrap import wrap

import pytest

from tests.docs.blocks import ROOT, Shell, agree, same_compiler

FIGURES, README, TUTORIAL = ROOT / "docs" / "figures.md", ROOT / "README.md", ROOT / "docs" / "tutorial.md"
COMMAND = "exo demo paging --seed 1"
_ROW = re.compile(r"^(?:own pagers|one default|kernel seizes).* [\d,]+$", re.MULTILINE)
_QUOTED = re.compile(r"(?:^> .*\n)+", re.MULTILINE)


def _rows(text: str) -> tuple[str, ...]:
    return tuple(line.rstrip() for line in _ROW.findall(text))


def _run(directory: Path) -> tuple[tuple[str, ...], str]:
    """The rows that the demonstration prints, and its conclusion as one line."""
    printed = "\n".join(Shell(directory).run(COMMAND))
    conclusion = printed[printed.index("With equal shares") : printed.index("The picture is")]
    return _rows(printed), " ".join(conclusion.split())


def _conclusion(text: str) -> str:
    quoted = _QUOTED.search(text)
    assert quoted is not None
    return " ".join(quoted[0].replace("> ", "").split())


@pytest.mark.slow
@pytest.mark.skipif("EXO_UPDATE_DOCS" in os.environ, reason="the documents are being written")
def test_the_demonstration_prints_what_the_figures_say(tmp_path: Path) -> None:
    figures = FIGURES.read_text(encoding="utf-8")
    rows, conclusion = _run(tmp_path)
    exactly = same_compiler(TUTORIAL.read_text(encoding="utf-8"))
    assert agree(_rows(figures), rows, exactly)
    assert not exactly or _conclusion(figures) == conclusion


def test_the_rows_in_the_readme_are_rows_of_the_figures() -> None:
    shown = _rows(README.read_text(encoding="utf-8"))
    assert shown
    assert set(shown) <= set(_rows(FIGURES.read_text(encoding="utf-8")))


@pytest.mark.skipif("EXO_UPDATE_DOCS" not in os.environ, reason="writes the documents")
def test_the_figures_are_brought_up_to_date(tmp_path: Path) -> None:
    rows, conclusion = _run(tmp_path)
    figures = FIGURES.read_text(encoding="utf-8")
    known = dict(zip(_rows(figures), rows, strict=True))
    quoted = "\n".join(wrap(conclusion, 120, initial_indent="> ", subsequent_indent="> ", break_on_hyphens=False))
    figures = _QUOTED.sub(lambda _: f"{quoted}\n", figures, count=1)
    for path, text in ((FIGURES, figures), (README, README.read_text(encoding="utf-8"))):
        path.write_text(_ROW.sub(lambda row: known[row[0].rstrip()], text), encoding="utf-8")
