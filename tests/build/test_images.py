"""What is built: images of the promised shape, the same bytes everywhere, and only once."""

import logging
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from elftools.elf.elffile import ELFFile

from exokernel.build import (
    BuildError,
    applications,
    build_application,
    build_everything,
    build_native_base,
    build_pager,
    build_stub,
    guests,
    native_parts,
)
from libos import interface

PAGER = """
#include "pager.h"
static uint32_t last;
void pager_start(uint32_t pages, uint32_t frames, uint64_t seed) { (void)pages, (void)frames, (void)seed; }
void pager_admit(uint32_t page) { last = page; }
void pager_forget(uint32_t page) { (void)page; }
uint32_t pager_victim(void) { return last; }
"""


def shape_of(image: Path) -> SimpleNamespace:
    with image.open("rb") as opened:
        elf = ELFFile(opened)
        loads = list(elf.iter_segments("PT_LOAD"))
        dynamic = next(elf.iter_segments("PT_DYNAMIC"))
        tags = {tag.entry.d_tag: tag for tag in dynamic.iter_tags()}
        return SimpleNamespace(
            kind=elf["e_type"],
            base=min(load["p_vaddr"] for load in loads),
            interpreter=any(elf.iter_segments("PT_INTERP")),
            needed=tags["DT_NEEDED"].needed if "DT_NEEDED" in tags else None,
            soname=tags["DT_SONAME"].soname if "DT_SONAME" in tags else None,
            exports={s.name for s in dynamic.iter_symbols() if s.name and s["st_shndx"] != "SHN_UNDEF"},
            text=elf.get_section_by_name(".text").data(),
        )


def test_an_application_needs_the_library_os_and_no_dynamic_linker(source: Path) -> None:
    shape = shape_of(build_application(source))
    assert (shape.kind, shape.base, shape.interpreter) == ("ET_EXEC", 0x400000, False)
    assert (shape.needed, shape.exports) == ("libos.so.1", set())


def test_everything_that_comes_with_the_package_is_built_and_then_only_found(
    compiler_runs: Callable[[], int],
) -> None:
    images = build_everything()
    assert len(set(images.values())) == len(applications()) + len(native_parts()) + 2
    runs = compiler_runs()
    assert (build_everything(), compiler_runs()) == (images, runs)


def test_every_pager_of_ours_answers_to_one_name() -> None:
    shapes = [shape_of(build_pager(part.path)) for part in native_parts().values()]
    assert shapes
    assert {shape.soname for shape in shapes} == {"libpager.so.1"}
    assert all(shape.exports >= {"pager_start", "pager_admit", "pager_forget", "pager_victim"} for shape in shapes)


def test_the_stub_has_the_functions_of_the_interface_and_each_traps_with_its_number() -> None:
    shape = shape_of(build_stub())
    assert (shape.kind, shape.soname) == ("ET_DYN", "libos.so.1")
    assert shape.exports == {function.name for function in interface.FUNCTIONS}
    traps = re.findall(rb"\x49\x89\xca\xb8(....)\x0f\x05\xc3", shape.text, re.DOTALL)
    assert [int.from_bytes(number, "little") for number in traps] == sorted(interface.BY_CALL_NUMBER)


def test_the_base_is_made_of_everything_in_its_directory_but_the_parts(tmp_path: Path) -> None:
    directory = tmp_path / "base"
    directory.mkdir()
    includes = '#include "libos.h"\n#include "pager.h"\n'
    (directory / "one.c").write_text(f"{includes}void os_yield(void) {{ pager_victim(); }}\n")
    (directory / "two.S").write_text('.globl two\ntwo: ret\n.section .note.GNU-stack,"",@progbits\n')
    (directory / "pager_three.c").write_text("void three(void) {}\n")
    shape = shape_of(build_native_base(directory))
    assert (shape.soname, shape.exports) == ("libos.so.1", {"os_yield", "two"})


def test_a_directory_without_a_library_os_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="There is no library OS in"):
        build_native_base(tmp_path / "nothing")


def test_a_pager_may_lie_anywhere(tmp_path: Path) -> None:
    (tmp_path / "my own.c").write_text(PAGER)
    assert shape_of(build_pager(tmp_path / "my own.c")).soname == "libpager.so.1"


def test_an_image_is_built_once_and_then_found_without_running_the_compiler(
    source: Path, compiler_runs: Callable[[], int]
) -> None:
    image = build_application(source)
    runs = compiler_runs()
    assert runs > 0
    assert (build_application(source), compiler_runs()) == (image, runs)


def test_a_changed_source_is_built_anew_and_the_old_one_found_again(source: Path, compiler_runs: Callable[[], int]) -> None:
    old, text = build_application(source), source.read_text()
    source.write_text(text.replace("hello", "howdy"))
    new, runs = build_application(source), compiler_runs()
    assert new != old
    assert b"howdy" in new.read_bytes()
    source.write_text(text)
    assert (build_application(source), compiler_runs()) == (old, runs)


@pytest.mark.parametrize("directive", ['#include "word.h"', '#  include "sub/../word.h"', '#inc\\\nlude "word.h"',
                                       '#define NAME "word.h"\n#include NAME',
                                       '#if __has_include("word.h") && 1\n#include "word.h"\n#endif'])  # fmt: skip
def test_a_changed_header_beside_the_source_is_noticed(source: Path, directive: str) -> None:
    (source.parent / "sub").mkdir()
    header = source.with_name("word.h")
    header.write_text('#define WORD "hello"\n')
    source.write_text(f"{directive}\nconst char *word = WORD;\nint main(void) {{ return 0; }}\n")
    assert b"hello" in build_application(source).read_bytes()
    header.write_text('#define WORD "howdy"\n')
    assert b"howdy" in build_application(source).read_bytes()


def test_a_header_that_comes_to_lie_before_ours_is_noticed(source: Path) -> None:
    mine = "#ifdef MINE\nint mine = 0x6d696e65;\n#endif\n"
    source.write_text(f'#include "support.h"\n{mine}int main(void) {{ return 0; }}\n')
    assert b"enim" not in build_application(source).read_bytes()
    source.with_name("support.h").write_text("#define MINE\n")
    assert b"enim" in build_application(source).read_bytes()


def test_a_changed_rule_or_flag_is_noticed(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    image = build_application(source)
    shutil.copytree(Path(guests.__file__).parent, tmp_path / "rules")
    monkeypatch.setattr(guests, "__file__", str(tmp_path / "rules" / "guests.py"))
    assert build_application(source) == image
    (tmp_path / "rules" / "flags.py").write_text("")
    assert build_application(source) != image


def test_the_same_source_gives_the_same_bytes_in_any_place(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.write_text("const char *where = __FILE__, *when = __DATE__ __TIME__;\nint main(void) { return *where; }\n")
    elsewhere = tmp_path / "another place" / "mine.c"
    elsewhere.parent.mkdir()
    shutil.copy(source, elsewhere)
    first = build_application(source).read_bytes()
    monkeypatch.setenv("EXOKERNEL_CACHE", str(tmp_path / "another store"))
    assert build_application(elsewhere).read_bytes() == first
    assert str(tmp_path).encode() not in first


def test_a_build_that_is_broken_off_leaves_nothing(source: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_stub()
    before = sorted(store.rglob("*"))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(guests, "check_image", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build_application(source)
    assert sorted(store.rglob("*")) == before
    assert build_application(source).is_file()


def test_a_source_that_changes_while_it_is_compiled_is_compiled_again(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_stub()
    text = source.read_text()

    def check_while_somebody_writes(*_: object) -> None:
        source.write_text(text.replace("hello", "howdy"))

    with monkeypatch.context() as patch:
        patch.setattr(guests, "check_image", check_while_somebody_writes)
        assert b"howdy" in build_application(source).read_bytes()
    source.write_text(text)
    assert b"hello" in build_application(source).read_bytes()


def test_several_processes_may_build_the_same_image_at_once(source: Path) -> None:
    imports = "import sys; from pathlib import Path; from exokernel.build import build_application"
    command = [sys.executable, "-c", f"{imports}; print(build_application(Path(sys.argv[1])))", str(source)]
    with ThreadPoolExecutor(4) as pool:
        root = Path(guests.__file__).parents[2]
        started = [pool.submit(subprocess.run, command, capture_output=True, check=True, cwd=root) for _ in range(4)]
        images = {run.result().stdout for run in started}
    assert images == {f"{build_application(source)}\n".encode()}


def test_a_warning_about_a_users_file_is_logged_and_no_error(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    source.write_text("int main(void) { int unused; return 0; }\n")
    with caplog.at_level(logging.WARNING):
        build_application(source)
    assert "unused" in caplog.text


def test_a_summary_is_the_sentence_a_source_opens_with() -> None:
    assert applications()["hello"].summary == "Greets, and prints its arguments, one a line."
    assert native_parts()["clock"].summary.startswith("Clock: ")
