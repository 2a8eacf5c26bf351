"""What is refused: sources that do not compile, images the loader could not run, computers without a compiler."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from exokernel.build import BuildError, build_application, build_pager, find_compiler
from exokernel.build.check import check_image
from exokernel.build.compiler import CompilerFailed

START = "void _start(void) {}\n"


def test_a_syntax_error_is_shown_as_the_compiler_says_it_with_one_sentence_of_ours(source: Path) -> None:
    source.write_text("int main(void) { return 0 }\n")
    with pytest.raises(BuildError) as refusal:
        build_application(source)
    *said, sentence = str(refusal.value).splitlines()
    assert any(f"{source}:1:" in line and "error" in line for line in said)
    assert sentence == f"{source} does not compile: above is what the compiler says."


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"absent\.c cannot be read: No such file or directory\."):
        build_application(tmp_path / "absent.c")


def test_a_file_that_is_no_c_source_is_refused(source: Path) -> None:
    with pytest.raises(BuildError, match=r"mine\.txt is not taken for a C source: give it a name that ends in \.c\."):
        build_application(source.rename(source.with_suffix(".txt")))


def test_a_program_without_main_is_told_what_is_missing(source: Path) -> None:
    source.write_text("int other(void) { return 0; }\n")
    with pytest.raises(BuildError, match=r"mine\.c has no function main"):
        build_application(source)


def test_an_application_that_uses_a_function_nobody_has_is_refused_by_name(source: Path) -> None:
    source.write_text("void launch(int), land(void);\nint main(void) { launch(1); launch(2); land(); return 0; }\n")
    with pytest.raises(BuildError, match=r"^mine\.c uses launch, land, not declared in libos\.h"):
        build_application(source)


def test_an_application_that_uses_a_variable_nobody_has_is_refused_by_name(source: Path) -> None:
    source.write_text("extern int os_counter;\nint main(void) { return os_counter; }\n")
    with pytest.raises(BuildError, match=r"^mine\.c uses os_counter, not declared"):
        build_application(source)


def test_a_pager_that_uses_a_function_nobody_has_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "wild.c").write_text("void guess(void);\nvoid pager_admit(void) { guess(); }\n")
    with pytest.raises(BuildError, match=r"^wild\.c uses guess, not declared in libos\.h or pager\.h"):
        build_pager(tmp_path / "wild.c")


def test_a_pager_may_not_touch_vector_registers(tmp_path: Path) -> None:
    (tmp_path / "float.c").write_text("double pager_admit(double page) { return page * 2; }\n")
    with pytest.raises(BuildError, match=r"float\.c does not compile"):
        build_pager(tmp_path / "float.c")


class Workshop:
    """Makes images by hand, past the recipes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.compiler = find_compiler()

    def image(self, name: str, text: str, *options: str, shared: bool = False, against: Sequence[Path] = ()) -> Path:
        source, unlinked, made = (self.directory / f"{name}{suffix}" for suffix in (".c", ".o", ""))
        source.write_text(text)
        try:
            self.compiler.compile_object(source, unlinked, ["-O2", "-ffreestanding", "-fPIC" if shared else "-fno-pie"])
            self.compiler.link_image([unlinked, *against], made, ["--build-id=none", *options], shared=shared)
        except CompilerFailed as failed:
            pytest.fail(str(failed))
        return made


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def refusal_of(image: Path) -> str:
    with pytest.raises(BuildError) as refusal:
        check_image(image, image.name, frozenset({"os_exit"}), "libos.h")
    return str(refusal.value)


def test_an_image_that_keeps_the_rules_is_accepted(workshop: Workshop) -> None:
    exits = workshop.image("libos", "void os_exit(void) {}\n", "-soname", "libos.so.1", shared=True)
    calls = "void os_exit(void);\nvoid (*later)(void) = os_exit;\nvoid _start(void) { os_exit(); later(); }\n"
    plain = ("-z", "separate-code", "--no-dynamic-linker", "--hash-style=sysv")
    image = workshop.image("plain", calls, *plain, against=[exits])
    check_image(image, "plain", frozenset({"os_exit"}), "libos.h")


def test_a_copy_relocation_is_refused_by_the_name_of_its_variable(workshop: Workshop) -> None:
    owner = workshop.image("owner", "int counter = 5;\n", "-soname", "libos.so.1", shared=True)
    text = "extern int counter;\nvoid _start(void) { counter++; }\n"
    copier = workshop.image("copier", text, "--no-dynamic-linker", "--hash-style=sysv", against=[owner])
    assert refusal_of(copier) == "copier copies counter, a variable elsewhere: the interface has functions only."


def test_a_variable_of_another_image_is_refused_by_name(workshop: Workshop) -> None:
    owner = workshop.image("owner", "int counter = 5;\n", shared=True)
    text = "extern int counter;\nint read(void) { return counter; }\n"
    reader = workshop.image("reader", text, "--hash-style=sysv", shared=True, against=[owner])
    assert refusal_of(reader) == "reader uses counter, a variable elsewhere: the interface has functions only."


def test_a_function_that_is_not_of_the_interface_is_refused_by_name(workshop: Workshop) -> None:
    text = "void os_exit(void), print(void);\nvoid call(void) { os_exit(); print(); }\n"
    caller = workshop.image("caller", text, "--hash-style=sysv", shared=True)
    assert refusal_of(caller) == "caller uses print, not declared in libos.h: guests are linked with no other library."


def test_text_that_must_be_written_is_refused_by_the_symbol(workshop: Workshop) -> None:
    text = 'void call(void) { __asm__ volatile("movabs $os_exit, %%rax" ::: "rax"); }\n'
    writer = workshop.image("writer", text, "-z", "notext", "--hash-style=sysv", shared=True)
    assert refusal_of(writer) == "writer would write os_exit into its text when it is loaded: compile it with -fPIC."


def test_an_executable_stack_is_refused(workshop: Workshop) -> None:
    sentence = "stack has a stack that is writable and executable: memory here is one or the other."
    assert refusal_of(workshop.image("stack", START, "-z", "execstack")) == sentence


def test_a_segment_that_is_writable_and_executable_is_refused(workshop: Workshop) -> None:
    text = "int counter = 1;\nvoid _start(void) { counter++; }\n"
    assert "that is writable and executable" in refusal_of(workshop.image("both", text, "--omagic"))


def test_text_and_data_on_one_page_are_refused(workshop: Workshop) -> None:
    text = "int counter = 1;\nvoid _start(void) { counter++; }\n"
    mixed = workshop.image("mixed", text, "-z", "separate-code", "-z", "max-page-size=256")
    assert refusal_of(mixed) == "mixed has text and data on one page, at 0x400000: link it with -z separate-code."


def test_a_thread_local_variable_is_refused(workshop: Workshop) -> None:
    text = "_Thread_local int mine = 3;\nint _start(void) { return mine; }\n"
    sentence = "local has thread-local variables, which no library OS sets up: make them static."
    assert refusal_of(workshop.image("local", text)) == sentence


def test_a_dynamic_linker_of_its_own_is_refused(workshop: Workshop) -> None:
    exits = workshop.image("libos", "void os_exit(void) {}\n", shared=True)
    text = "void os_exit(void);\nvoid _start(void) { os_exit(); }\n"
    linked = workshop.image("linked", text, "--dynamic-linker=/lib/ld.so", against=[exits])
    assert refusal_of(linked) == "linked asks for a dynamic linker of its own: link it with --no-dynamic-linker."


def test_a_relocation_the_loader_does_not_apply_is_refused(workshop: Workshop) -> None:
    text = (
        "static void real(void) {}\nstatic void (*choose(void))(void) { return real; }\n"
        'static void chosen(void) __attribute__((ifunc("choose")));\nvoid _start(void) { chosen(); }\n'
    )
    chooser = workshop.image("chooser", text, "--hash-style=sysv", shared=True)
    assert "which the loader does not apply" in refusal_of(chooser)


def test_what_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("#!/bin/sh\n")
    assert refusal_of(tmp_path / "text").startswith("text is not a well-formed ELF file: ")


def without_ziglang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "ziglang", None)
    monkeypatch.setenv("PATH", str(tmp_path / "no programs here"))
    monkeypatch.delenv("CC", raising=False)


def test_without_a_compiler_the_error_names_the_package_to_install(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_ziglang(monkeypatch, tmp_path)
    with pytest.raises(BuildError, match=r"on Debian the package gcc.*pip install exokernel\[zig\]"):
        build_application(source)


@pytest.mark.parametrize(
    "script",
    ["exit 1", "exit 0", "while [ $# -gt 1 ]; do shift; done; echo 'MACH-O and no ELF at all' > \"$1\""],
)
def test_a_compiler_that_makes_something_else_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    without_ziglang(monkeypatch, tmp_path)
    other = tmp_path / "other-cc"
    other.write_text(f"#!/bin/sh\n{script}\n")
    other.chmod(0o755)
    monkeypatch.setenv("CC", str(other))
    with pytest.raises(BuildError, match="No C compiler here makes x86-64 ELF programs"):
        find_compiler()


def test_a_compiler_named_in_cc_comes_first_and_may_have_arguments(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc -DNAMED='two words'")
    assert find_compiler().compile[1:] == ("-DNAMED=two words",)
    source.write_text("#ifndef NAMED\n#error\n#endif\nint main(void) { return 0; }\n")
    assert build_application(source).is_file()


def test_an_open_quote_in_cc_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "cc 'open")
    with pytest.raises(BuildError, match="CC has a quote that is not closed"):
        find_compiler()


def test_a_store_that_cannot_be_written_is_named(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EXOKERNEL_CACHE", str(tmp_path / "file" / "store"))
    with pytest.raises(BuildError, match=r"cannot be kept in .*/file/store .*: set EXOKERNEL_CACHE to"):
        build_application(source)
