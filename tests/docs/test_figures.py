"""The demonstrations' numbers in the documents are what they print.

With EXO_UPDATE_DOCS=1 they are written into docs/figures.md and README.md; the sentences beside them are not, and want
reading again.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Shell, agree, same_compiler

FIGURES, README = ROOT / "docs" / "figures.md", ROOT / "README.md"
COMMAND = "exo demo paging --seed 1"
CONVOY = "exo demo convoy --json"
_ROW = re.compile(r"^(?:own pagers|one default|kernel seizes).* [\d,]+$", re.MULTILINE)
_RATIO = re.compile(r"^\| \d+ \| \d+ \|(?: \d\.\d\d \|){4}\n", re.MULTILINE)
_RATIOS = re.compile(r"(?<=\| --- \| --- \| --- \| --- \| --- \| --- \|\n)" + f"(?:{_RATIO.pattern})*", re.MULTILINE)
_QUOTED = re.compile(r"(?:^> .*\n)+", re.MULTILINE)
_UPDATING = "EXO_UPDATE_DOCS" in os.environ


def _rows(text: str) -> tuple[str, ...]:
    return tuple(line.rstrip() for line in _ROW.findall(text))


def _paging(directory: Path) -> tuple[tuple[str, ...], str]:
    """The rows that the demonstration prints, and its conclusion as one line."""
    printed = "\n".join(Shell(directory).run(COMMAND))
    conclusion = printed[printed.index("With equal shares") : printed.index("The picture is")]
    return _rows(printed), " ".join(conclusion.split())


def _convoy(directory: Path) -> tuple[str, str]:
    """The table of how much more is done by asking, and the conclusion as one line."""
    result = json.loads("\n".join(Shell(directory).run(CONVOY)))
    return "".join(_ratios(result["shared"])), " ".join(result["conclusion"])


def _ratios(cells: list[dict[str, Any]]) -> Iterator[str]:
    by_place: dict[tuple[int, int], list[str]] = {}
    for one in cells:
        ratio = one["asks"]["throughput"] / one["forces"]["throughput"]
        by_place.setdefault((one["threads"], one["cpus"]), []).append(f"{ratio:.2f}")
    for (threads, cpus), ratios in by_place.items():
        yield f"| {threads} | {cpus} | {' | '.join(ratios)} |\n"


def _part(document: str, heading: str) -> str:
    return document.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def _conclusion(part: str) -> str:
    quoted = _QUOTED.search(part)
    assert quoted is not None
    return " ".join(quoted[0].replace("> ", "").split())


def _written(document: str, heading: str, conclusion: str) -> str:
    """The document with another conclusion in the section of that heading."""
    part = _part(document, heading)
    quoted = "\n".join(wrap(conclusion, 120, initial_indent="> ", subsequent_indent="> ", break_on_hyphens=False))
    return document.replace(part, _QUOTED.sub(lambda _: f"{quoted}\n", part, count=1))


@pytest.mark.slow
@pytest.mark.skipif(_UPDATING, reason="the documents are being written")
def test_the_demonstration_of_paging_prints_what_the_figures_say(tmp_path: Path) -> None:
    figures = FIGURES.read_text(encoding="utf-8")
    rows, conclusion = _paging(tmp_path)
    exactly = same_compiler(figures)
    assert agree(_rows(figures), rows, exactly)
    assert not exactly or _conclusion(_part(figures, "The paging demonstration")) == conclusion


@pytest.mark.slow
@pytest.mark.skipif(_UPDATING, reason="the documents are being written")
def test_the_demonstration_of_the_convoy_gives_what_the_figures_say(tmp_path: Path) -> None:
    figures = FIGURES.read_text(encoding="utf-8")
    ratios, conclusion = _convoy(tmp_path)
    exactly = same_compiler(figures)
    shown = "".join(_RATIO.findall(figures))
    assert agree(tuple(shown.splitlines()), tuple(ratios.splitlines()), exactly)
    assert not exactly or _conclusion(_part(figures, "The convoy")) == conclusion


def test_the_rows_in_the_readme_are_rows_of_the_figures() -> None:
    shown = _rows(README.read_text(encoding="utf-8"))
    assert shown
    assert set(shown) <= set(_rows(FIGURES.read_text(encoding="utf-8")))


@pytest.mark.skipif(not _UPDATING, reason="writes the documents")
def test_the_figures_of_paging_are_brought_up_to_date(tmp_path: Path) -> None:
    rows, conclusion = _paging(tmp_path)
    figures = FIGURES.read_text(encoding="utf-8")
    known = dict(zip(_rows(figures), rows, strict=True))
    figures = _written(figures, "The paging demonstration", conclusion)
    for path, text in ((FIGURES, figures), (README, README.read_text(encoding="utf-8"))):
        path.write_text(_ROW.sub(lambda row: known[row[0].rstrip()], text), encoding="utf-8")


@pytest.mark.skipif(not _UPDATING, reason="writes the documents")
def test_the_figures_of_the_convoy_are_brought_up_to_date(tmp_path: Path) -> None:
    ratios, conclusion = _convoy(tmp_path)
    figures = _written(FIGURES.read_text(encoding="utf-8"), "The convoy", conclusion)
    part = _part(figures, "The convoy")
    FIGURES.write_text(figures.replace(part, _RATIOS.sub(lambda _: ratios, part, count=1)), encoding="utf-8")
