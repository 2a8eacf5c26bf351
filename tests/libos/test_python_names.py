"""Python library OSes by name and by path, and the sentence for each way in which that fails."""

from pathlib import Path

import pytest

from libos.base import LibraryOS
from libos.image import LoadError
from libos.names import library_from_file, library_named, parts
from libos.replacement import STRATEGIES, Clock, Fifo
from tests.apps.oracles import expected_output
from tests.libos.machines import Machine
from tests.libos.pythonic import over_python

TWENTY_LINES = '''
from libos.replacement import Strategy


class MyPager(Strategy):
    """Last in, first out, but for the very last eight."""

    name = "mine"
    summary = "last in, first out"

    def __init__(self, frames, seed=0):
        self.pages = []

    def admit(self, page):
        self.pages.append(page)

    def forget(self, page):
        self.pages.remove(page)

    def victim(self, bits):
        return self.pages[-9] if len(self.pages) > 8 else self.pages[0]
'''


def test_every_strategy_a_live_pager_can_use_is_a_part() -> None:
    assert {"fifo", "second-chance", "clock", "ageing", "nfu", "mru", "random", "wsclock"} <= parts().keys()
    assert all(not STRATEGIES[name].needs_every_reference and summary for name, summary in parts().items())


def test_a_name_gives_a_fresh_library_each_time() -> None:
    make = library_named("python+fifo")
    assert isinstance(make(frames=5, seed=1), LibraryOS)
    assert make() is not make()
    assert library_named("clock")().strategy is Clock
    assert library_named("fifo")().strategy is Fifo


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("clok", "There is no Python library OS called 'clok'; did you mean 'clock'?"),
        ("lru", "The policy 'lru' must see every reference"),
        ("zzz", "choose one of fifo, second-chance"),
    ],
)
def test_a_wrong_name_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(LoadError, match=f".*{sentence.replace('?', '[?]')}") as caught:
        library_named(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("inside", ["MyPager", ""])
def test_a_pager_of_twenty_lines_pages(tmp_path: Path, inside: str) -> None:
    (tmp_path / "mypager.py").write_text(TWENTY_LINES)
    make = library_from_file(tmp_path / "mypager.py", inside)
    walk = ("--pattern", "loop", "--pages", "50", "--steps", "1000")
    (ended,) = Machine().run([over_python("pagewalk", *walk, library=make, frames=20)])
    assert ended.output.encode() == expected_output(["pagewalk", *walk])
    assert ended.evictions > 50


def test_a_whole_library_out_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from libos.base import LibraryOS\n"
        "class Mine(LibraryOS):\n"
        "    async def os_exit(self, context, status):\n"
        "        await self.exo.exit(status + 1)\n"
    )
    (ended,) = Machine().run([over_python("hello", library=library_from_file(tmp_path / "mine.py", "Mine"))])
    assert ended.status == 1


@pytest.mark.parametrize(
    ("text", "inside", "sentence"),
    [
        ("x = 1\n", "Pager", "has no class Pager."),
        ("class Pagr: pass\n", "Pager", "has no class Pager; did you mean Pagr?"),
        ("class Pager: pass\n", "Pager", "Pager is neither a Strategy nor a LibraryOS; derive it from one of them."),
        ("def Pager(): pass\n", "Pager", "Pager is neither a Strategy nor a LibraryOS"),
        ("import nothing_of_this_name\n", "Pager", "line 1, cannot be imported: ModuleNotFoundError"),
        ("x = 1\n1 / 0\n", "Pager", "line 2, cannot be imported: ZeroDivisionError: division by zero."),
        ("def\n", "Pager", "line 1, cannot be imported: SyntaxError"),
        ("x = 1\n", "", "has no library OSes; write a class"),
        (TWENTY_LINES + TWENTY_LINES.replace("MyPager", "Other"), "", "has 2 library OSes; name one of"),
        ("from libos.replacement import Strategy\nclass P(Strategy): 1\n", "P", "not define admit, forget, victim"),
        ("from libos.replacement import Lru\nclass P(Lru): pass\n", "P", "P must see every reference"),
    ],
)
def test_a_file_that_is_of_no_use_is_one_sentence(tmp_path: Path, text: str, inside: str, sentence: str) -> None:
    path = tmp_path / "pager.py"
    path.write_text(text)
    with pytest.raises(LoadError) as caught:
        library_from_file(path, inside)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"There is no file .*nothing\.py\."):
        library_from_file(tmp_path / "nothing.py", "Pager")
