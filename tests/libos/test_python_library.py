"""The functions of the interface and the ends of a program, over a Python library OS."""

from pathlib import Path

import pytest

from exokernel.build import guests
from libos.base import LibraryOS
from libos.interface import FUNCTIONS
from tests.apps.oracles import expected_output
from tests.libos.machines import Machine, native
from tests.libos.pythonic import c_program, over_python


@pytest.mark.parametrize(
    "argv", [("hello", "one", "two"), ("matmul", "24"), ("quicksort", "3000"), ("hashjoin", "500", "1500", "2")]
)
def test_the_same_binary_prints_the_same_over_native_and_over_python_parts(argv: tuple[str, ...]) -> None:
    (in_python,) = Machine().run([over_python(*argv, frames=12)])
    (in_c,) = Machine().run([native(*argv, frames=12)])
    assert in_python.output == in_c.output
    assert in_python.output.encode() == expected_output([guests.applications()[argv[0]].name, *argv[1:]])


def test_every_function_of_the_interface_has_a_method() -> None:
    assert all(callable(getattr(LibraryOS, function.name, None)) for function in FUNCTIONS)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("*(volatile int *)0x10 = 1;", 139, "segmentation fault at 0x10 (write), rip 0x4"),
        ("return *(volatile int *)0x7fff0000;", 139, "segmentation fault at 0x7fff0000 (read), rip 0x4"),
        ("((void (*)(void))os_region(4096))();", 139, "(execute), rip 0x"),
        ("*(volatile char *)main = 1;", 139, "(write), rip 0x4"),
        ("os_write((void *)0x7fff0000, 5);", 139, "segmentation fault at 0x7fff0000 (read)"),
        ("volatile int zero = 0, seven = 7; return seven / zero;", 136, "trap: exception 0 at rip 0x4"),
        ('__asm__ volatile("ud2");', 132, "trap: exception 6 at rip 0x4"),
        ('__asm__ volatile("hlt");', 132, "trap: privileged instruction, vector 13 at rip 0x4"),
        ('__asm__ volatile("int $0x80");', 132, "trap: software interrupt 128 at rip 0x4"),
        ('__asm__ volatile("syscall" :: "a"(39) : "rcx", "r11");', 159, "trap: foreign system call 39 at rip 0x4"),
        ("os_free((char *)os_alloc(8) + 1);", 134, "os_free: this is no block of the heap"),
        ("void *block = os_alloc(8); os_free(block); os_free(block);", 134, "os_free: this is no block of the heap"),
        ("os_exit(300);", 44, ""),
    ],
)
def test_a_program_that_does_wrong_ends_with_a_sentence(tmp_path: Path, body: str, status: int, sentence: str) -> None:
    machine = Machine()
    (ended,) = machine.run([over_python(c_program(tmp_path, body + "\nreturn 0;"))])
    assert ended.status == status
    assert sentence.replace(" at rip", ", rip") in ended.output
    assert ended.output.count("\n") == bool(sentence)
    assert not machine.deaths


def test_an_override_of_a_few_lines_changes_one_thing(tmp_path: Path) -> None:
    class Loud(LibraryOS):
        """Writes in capitals."""

        async def os_write(self, context: int, text: int, size: int) -> int:
            return await self.exo.console_write((await self.exo.read(text, size)).upper())

    (ended,) = Machine().run([over_python("hello", library=Loud)])
    assert ended.output == "HELLO FROM RING 3.\n"


def test_text_of_many_pages_is_written_whole(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        char *text = os_region(100000);
        for (int i = 0; i < 100000; i++) text[i] = (char)('a' + i % 26);
        return os_write(text, 100000) == 100000 ? 0 : 1;
        """,
    )
    (ended,) = Machine().run([over_python(source, frames=10)])
    assert ended.status == 0
    assert ended.output == "".join(chr(97 + i % 26) for i in range(100000))


def test_memory_runs_out_with_null_pointers(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        if (os_region(0) || os_region(1 << 30) || os_alloc(1ull << 40) || os_alloc(~0ull)) return 1;
        uint64_t count = 0;
        while (os_alloc(PAGE_SIZE)) count++;
        return count == 64 ? 0 : (int)count;
        """,
    )
    (ended,) = Machine().run([over_python(source, heap_pages=64)])
    assert (ended.status, ended.output) == (0, "")


def test_time_goes_on_while_others_run(tmp_path: Path) -> None:
    source = c_program(
        tmp_path, "uint64_t before = os_time(); os_yield(); uint64_t after = os_time(); return after > before ? 0 : 1;"
    )
    first, second = Machine().run([over_python(source), over_python(source)])
    assert (first.status, second.status) == (0, 0)
