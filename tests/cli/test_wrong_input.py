"""Whatever a user gets wrong is answered by a sentence or two and the exit status 2, never by a traceback."""

import os
import sys
from pathlib import Path

import pytest

from tests.cli.commands import exo
from tests.libos.elves import BASE, EXECUTE, READ, Elf, Segment

RIGHT_PAGER = """
from libos.replacement import Fifo
class Mine(Fifo):
    pass
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["helo"], "There is no application called helo; did you mean hello?"),
        (["hello", "--libos", "clok"], "There is no library OS called clok; did you mean clock?"),
        (
            ["hello", "--libos", "python+wsclok"],
            "There is no library OS called python+wsclok; did you mean python+wsclock?",
        ),
        (["hello", "--global-policy", "oldst"], "There is no global policy called oldst; did you mean oldest?"),
        (["--env", "helo"], "There is no application called helo; did you mean hello?"),
    ],
)
def test_a_wrong_name_is_answered_with_the_near_one(words: list[str], sentence: str) -> None:
    assert exo("run", *words).sentences == sentence


def test_a_name_that_is_near_to_nothing_is_answered_with_all() -> None:
    sentence = exo("run", "xyzzy").sentences
    assert sentence.startswith(
        "There is no application called xyzzy; there are: appelli, convoy, copytree, forkdemo, forktree, hashjoin, hello"
    )


def test_a_policy_that_only_replays_is_named_as_one() -> None:
    assert (
        "must see every reference, which no hardware reports; use it with exo replay"
        in exo("run", "hello", "--libos", "lru").sentences
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "No program was named; name one, for example: exo run hello"),
        (["hello", "--libos", ""], "There is no library OS called ''; there are: "),
        (["hello", "--frames", "4097"], "hello was given 4097 frames, but the machine has 4096; use fewer or a larger"),
        (["hello", "--frames", "7"], "hello was given 7 frames, but one instruction may need 8 pages; give it 8 or more."),
        (["sieve", "--frames", "1"], "sieve was given 1 frames, but one instruction may need 8 pages; give it 8 or more."),
        (["hello", "--frames", "-3"], "hello was given a negative number of frames or bytes."),
        (["hello", "--memory", "16X"], "'16X' is no size for the memory; write a whole number with K, M or G behind it"),
        (["hello", "--memory", "²M"], "'²M' is no size for the memory"),
        (["hello", "--memory", "1020K"], "A memory of 1044480 bytes makes no sense here; it is a multiple of 4096 between"),
        (["hello", "--memory", "3G"], "between 1M and 2048M."),
        (["hello", "--memory", "2000001"], "it is a multiple of 4096"),
        (["hello", "--disk-size", "100"], "A disk of 100 bytes makes no sense here; it is a multiple of 512 of at most"),
        (["hello", "--disk-size", "2000G"], "of at most 1024G."),
        (["hello", "--disk-size", "1M"], "give the machine a larger disk, or the program a smaller heap."),
        (["sieve", "--disk-size", "1M"], "give the machine a larger disk or the program a smaller heap."),
        (["hello", "--disk-size", "0"], "give the machine a larger disk, or the program a smaller heap."),
        (["hello", "--seed", "-1"], "A seed of -1 is too small or too large; it is a whole number below 2^64."),
        (["hello", "--seed", str(1 << 64)], "is too small or too large"),
        (["hello", "--stop-on", "birth"], "--stop-on knows death and upcall, not birth."),
        (["hello", "--env", "hello", "--record-references", "r"], "References are recorded of one program alone"),
        (
            ["pingpong", "--record-references", "r"],
            "pingpong is written in Python; references are recorded of machine code",
        ),
        (["--libos", "clock", "--env", "hello"], "--libos and --frames are options of APP; a program of --env has its own"),
        (["--env", "hello --guarantee 3000", "--env", "hello --guarantee 3000"], "are promised 6000 frames together, but"),
        (["--env", "hello --guarantee 4090"], "cannot be promised 4090 frames, as so many are not free; promise fewer"),
        (["--env", "hello --quota 3"], "over_quota: the environment may not hold more"),
        (["--env", "hello --heap 1G"], "at most 65535 can be kept track of; give it a smaller heap or fewer files."),
        (["--env", "hello --frames"], "--env 'hello --frames': --frames has no value."),
        (["--env", "hello --frames many"], "--env 'hello --frames many': frames is a whole number, not 'many'."),
        (["--env", "hello --heap many"], "heap is a size such as \"64M\", not 'many'."),
        (["--env", "hello --libso clock"], "There is no setting called libso; did you mean libos?"),
        (["--env", "hello --app hello"], "there is no option --app; write the program first and its arguments after --."),
        (["--env", "hello file"], "file is no option; a program's own arguments come after --."),
        (["--env", ""], "--env '' names no program; begin with one"),
        (["--env", "hello 'open"], "cannot be read: No closing quotation."),
        (["hello", "--", "\udcff"], "cannot be handed to hello; names and arguments are text in UTF-8."),
        (["hello", "--scenario", "file.toml"], "The programs are those of file.toml; write others into it, or leave out"),
        (["--scenario", "nowhere.toml"], "The scenario nowhere.toml cannot be read: No such file or directory."),
    ],
)
def test_numbers_and_options_that_make_no_sense_are_named(words: list[str], sentence: str) -> None:
    assert sentence in exo("run", *words).sentences


def test_memory_that_the_host_does_not_have_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("exokernel.session.PhysicalMemory", refuse)
    assert exo("run", "hello", "--memory", "2G").sentences.startswith("This computer has no room for --memory 2048M (")


# Files.


def test_an_application_file_that_is_not_there_is_named() -> None:
    assert exo("run", "./nowhere.c").sentences == "There is no application file ./nowhere.c."
    assert exo("run", "./").sentences == "There is no application file ./."


@pytest.mark.parametrize(
    ("elf", "sentence"),
    [
        (Elf(machine=183), "is for another processor (EM_AARCH64); build it for x86-64."),
        (Elf(kind=b"\x01\x01\x01"), "is not a 64-bit little-endian image; build it for x86-64."),
        (
            Elf(
                [Segment(BASE + 0x1000, b"\xc3" * 64, READ | EXECUTE), Segment(BASE + 0x1020, b"\xc3" * 64, READ | EXECUTE)]
            ),
            "is damaged: its segments at 0x401000 and 0x401020 overlap; copy or build it again.",
        ),
        (Elf([Segment(0xFFFF_8000_0000_0000, b"\xc3", READ | EXECUTE)]), "at 0xffff800000000000, outside the memory"),
        (
            Elf([Segment((1 << 64) - 0x1000, b"\xc3", READ | EXECUTE, size=0x2000)]),
            "at 0xfffffffffffff000, outside the memory a program can have",
        ),
    ],
)
def test_an_image_that_cannot_be_loaded_is_refused(tmp_path: Path, elf: Elf, sentence: str) -> None:
    (tmp_path / "image").write_bytes(elf.build())
    assert sentence in exo("run", "./image").sentences


@pytest.mark.parametrize("size", [10, 63, 100, 0x1000])
def test_a_truncated_image_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "image").write_bytes(Elf().build()[:size])
    assert "is damaged: it ends" in exo("run", "./image").sentences


@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n"])
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "image").write_bytes(content)
    assert exo("run", "./image").sentences == ("image is not an ELF image; name a program or library built for x86-64.")


def test_a_gibibyte_is_no_program(tmp_path: Path) -> None:
    with (tmp_path / "image").open("wb") as file:
        file.truncate(1 << 30)
    assert "has 1024 MiB, which is too much for a program" in exo("run", "./image").sentences


def test_an_input_file_of_a_gibibyte_is_refused_at_once_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)
    assert "at most 65535 can be kept track of" in exo("run", "wordfreq", "--", "big").sentences


def test_an_input_file_that_is_missing_or_a_directory_is_the_programs_to_complain_about() -> None:
    for name in ("nowhere", ".", "x" * 300):
        ended = exo("run", "wordfreq", "--", name)
        assert ended.status == 2
        assert ended.out.startswith(f"wordfreq: the program was given no file named {name}.\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read everything")
def test_an_input_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(mode=0o200)
    assert exo("run", "wordfreq", "--", "secret").sentences == "The file secret cannot be read: Permission denied."


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        (None, "The disk image disk cannot be opened for reading and writing: No such file or directory."),
        (0, "disk is empty, so it is no disk image; a new one is made by: truncate"),
        (1000, "disk has 1000 bytes, which is not a whole number of 512-byte sectors"),
    ],
)
def test_a_disk_image_that_cannot_be_used_is_refused(tmp_path: Path, size: int | None, sentence: str) -> None:
    if size is not None:
        (tmp_path / "disk").write_bytes(bytes(size))
    assert sentence in exo("run", "hello", "--disk", "disk").sentences


@pytest.mark.parametrize("option", ["--trace", "--record-references"])
@pytest.mark.parametrize(
    ("place", "why"),
    [("nowhere/file", "No such file or directory"), (".", "Is a directory"), ("/dev/full", "No space left on device")],
)
def test_a_file_that_cannot_be_written_is_named(option: str, place: str, why: str) -> None:
    assert exo("run", "hello", option, place).sentences == f"{place} cannot be written: {why}; name another file."


def test_a_trace_of_references_that_cannot_be_replayed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("1\n2\nthree\n")
    assert exo("replay", "nowhere").sentences.startswith("nowhere: cannot be read (No such file or directory)")
    assert exo("replay", "trace").sentences.startswith("trace, line 3: 'three' is not a page number")
    assert exo("replay", "trace", "--policy", "fivo").sentences.endswith("did you mean 'fifo'?")


def test_a_demonstration_is_told_beforehand_what_cannot_be_done() -> None:
    assert exo("demo", "paging", "--picture", "nowhere/picture.png").sentences == (
        "nowhere/picture.png cannot be written: No such file or directory; name another file."
    )
    assert exo("demo", "paging", "--seed", "-1").sentences.startswith("A seed of -1 is too small or too large")


# Sources.


def test_without_a_compiler_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.c").touch()
    monkeypatch.setenv("EXOKERNEL_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setitem(sys.modules, "ziglang", None)
    for command in (["run", "hello"], ["build", "mine.c"], ["demo", "paging"], ["bench"]):
        assert exo(*command).sentences == (
            "No C compiler here makes x86-64 ELF programs: install one (on Debian the package gcc), or the one that comes "
            "from PyPI: pip install exokernel[zig]."
        )


@pytest.mark.parametrize("command", [["run", "mine.c"], ["build", "mine.c"], ["run", "hello", "--libos", "./mine.c"]])
def test_a_source_that_does_not_compile_is_answered_with_what_the_compiler_says(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "mine.c").write_text("int main(void) { return nothing; }\n")
    ended = exo(*command)
    assert ended.status == 2
    assert "mine.c:1:25:" in ended.err
    assert ended.err.endswith("mine.c does not compile: above is what the compiler says.\n")


def test_an_undefined_symbol_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.c").write_text("int other(void);\nint main(void) { return other(); }\n")
    for command in (["run", "mine.c"], ["build", "mine.c"]):
        assert exo(*command).sentences == (
            "mine.c uses other, not declared in libos.h: guests are linked with no other library."
        )


def test_a_source_that_is_not_there_or_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "text").touch()
    assert exo("build", "nowhere.c").sentences == "nowhere.c cannot be read: No such file or directory."
    assert exo("build", "text").sentences.endswith("text is not taken for a C source: give it a name that ends in .c.")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("./nowhere.py:Mine", None, "There is no file nowhere.py."),
        ("./nowhere.c", None, "There is no library OS file ./nowhere.c."),
        ("./nowhere", None, "./nowhere is taken for a file, and one with a library OS ends in .c or .py."),
        ("./mine.py:Mine", "class Mine(:\n", "mine.py, line 1, cannot be imported: SyntaxError: invalid syntax"),
        ("./mine.py:Mine", "import nothing_like_it\n", "cannot be imported: ModuleNotFoundError: No module named 'nothing"),
        ("./mine.py:Main", RIGHT_PAGER, "mine.py has no class Main; did you mean Mine?"),
        ("./mine.py:Mine", "class Mine: pass\n", "Mine is neither a Strategy nor a LibraryOS; derive it from one of them."),
        (
            "./mine.py:Mine",
            "from libos.replacement import Strategy\nclass Mine(Strategy): pass\n",
            "Mine does not define admit, forget, victim, which a Strategy must have.",
        ),
    ],
)
def test_a_library_os_by_path_that_cannot_be_used_is_refused(
    tmp_path: Path, name: str, text: str | None, sentence: str
) -> None:
    if text is not None:
        (tmp_path / "mine.py").write_text(text)
    assert sentence in exo("run", "hello", "--libos", name).sentences


def test_a_program_in_python_without_a_main_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def main(exo, arguments):\n    return 0\n")
    assert "has no 'async def main(exo, arguments)'" in exo("run", "./mine.py").sentences
