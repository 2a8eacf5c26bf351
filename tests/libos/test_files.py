"""Programs and files: the same program over a native library, over one in Python and on the host sees the same."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.kernel.kernel import Settings
from libos.files import protocol
from libos.files.calls import FileCalls
from libos.files.functions import FILE_ROWS
from libos.files.linked import LinkedFiles
from libos.files.protocol import Whence
from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import Errno, FileSystem, FileSystemError, Kind
from libos.filesystems.memory import MemoryFileSystem
from libos.python_programs import LinkedExo
from tests.apps.host import run_on_the_host
from tests.libos.file_clients import Slow
from tests.libos.machines import Machine, native
from tests.libos.pythonic import HEADER, c_program, over_python, run_python

GUEST = Path(__file__).with_name("files_guest.c")


async def memory(exo: Exo) -> FileSystem:
    return MemoryFileSystem()


@pytest.fixture(params=[native, over_python], ids=["native", "python"])
def over(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_files_are_what_they_are_on_the_host(over: Any, tmp_path: Path) -> None:
    expected = run_on_the_host([GUEST, str(tmp_path)])
    assert expected.returncode == 0, expected.stderr
    machine = Machine(mount=memory)
    (ended,) = machine.run([over(GUEST, "/")])
    assert ended.output.splitlines() == expected.stdout.decode().splitlines()
    assert ended.status == 0
    assert not machine.deaths


def test_threads_use_files_at_the_same_time(over: Any, tmp_path: Path) -> None:
    body = """
    static char path[8] = "/common";
    long common = os_open(path, OS_OPEN_WRITE | OS_OPEN_CREATE, 0600);
    static char many[60000];
    for (int i = 0; i < 60000; i++) many[i] = (char)(i / 4096);
    if (os_write_file(common, many, sizeof many) != sizeof many) return 1;
    mapped = os_map_file(path, NULL);
    os_processors(3);
    for (long i = 0; i < 5; i++) threads[i] = os_thread_create(work, (void *)i);
    for (long i = 0; i < 5; i++) if (os_thread_join(threads[i]) != i) return 2;
    return 0;"""
    before = """
    static const char *mapped;
    static long threads[5];
    static long work(void *argument) {
        static char paths[5][4] = {"/a", "/b", "/c", "/d", "/e"};
        static char buffers[5][9000], back[5][9000];
        long number = (long)argument;
        for (int round = 0; round < 6; round++) {
            memset(buffers[number], (int)('a' + number * 5 + round), 9000);
            long file = os_open(paths[number], OS_OPEN_BOTH | OS_OPEN_CREATE | OS_OPEN_TRUNCATE, 0600);
            if (file < 0 || os_write_file(file, buffers[number], 9000) != 9000) return -2;
            if (os_seek(file, 0, OS_FROM_START) != 0 || os_read_file(file, back[number], 9000) != 9000) return -3;
            if (memcmp(back[number], buffers[number], 9000)) return -4;
            for (int page = 0; page < 14; page++) if (mapped[page * 4096 + round] != (char)page) return -5;
            if (os_close(file)) return -6;
        }
        return number;
    }
    """
    machine = Machine(mount=memory, settings=Settings(cpus=3))
    source = tmp_path / "threads.c"
    source.write_text(f"{HEADER}{before}\nint main(void) {{{body}}}\n")
    (ended,) = machine.run([over(source, frames=24)])
    assert (ended.status, ended.output) == (0, "")
    assert ended.evictions > 20


def test_threads_that_take_turns_at_the_window_get_what_is_theirs(over: Any, tmp_path: Path) -> None:
    before = """
    static long threads[3], files[3];
    static long work(void *argument) {
        static char paths[3][4] = {"/a", "/b", "/c"};
        long number = (long)argument, file = os_open(paths[number], OS_OPEN_BOTH | OS_OPEN_CREATE, 0600);
        files[number] = file;
        char letter = (char)('a' + number);
        if (file < 0) return -2;
        for (int round = 0; round < 40; round++) {
            char back = 0;
            if (os_write_file(file, &letter, 1) != 1 || os_seek(file, -1, OS_FROM_HERE) != round) return -3;
            if (os_read_file(file, &back, 1) != 1 || back != letter) return -4;
        }
        return number;
    }
    """
    body = """
    os_processors(3);
    for (long i = 0; i < 3; i++) threads[i] = os_thread_create(work, (void *)i);
    for (long i = 0; i < 3; i++) if (os_thread_join(threads[i]) != i) return 2;
    for (long i = 0; i < 3; i++) {
        char back[50];
        if (os_seek(files[i], 0, OS_FROM_START) || os_read_file(files[i], back, 50) != 40) return 3;
        for (int place = 0; place < 40; place++) if (back[place] != (char)('a' + i)) return 4;
    }
    return 0;"""
    source = tmp_path / "threads.c"
    source.write_text(f"{HEADER}{before}\nint main(void) {{{body}}}\n")
    files = Slow()
    files.cycles = 2_000

    async def slow(exo: Exo) -> FileSystem:
        return files

    (ended,) = Machine(mount=slow, settings=Settings(cpus=3, window=100)).run([over(source)])
    assert (ended.status, ended.output) == (0, "")


def test_a_mapped_file_is_read_again_when_its_pages_had_to_go(over: Any, tmp_path: Path) -> None:
    body = """
    static char page[4096];
    long file = os_open("/large", OS_OPEN_WRITE | OS_OPEN_CREATE, 0600);
    for (int i = 0; i < 40; i++) {
        memset(page, i + 1, sizeof page);
        if (os_write_file(file, page, sizeof page) != sizeof page) return 1;
    }
    if (os_close(file)) return 2;
    size_t size;
    const char *mapped = os_map_file("/large", &size), *second = os_map_file("/large", NULL);
    if (size != 40 * 4096 || !second || second == mapped) return 3;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 40; i++)
            if (mapped[i * 4096 + 5] != i + 1 || second[i * 4096 + 4095] != i + 1) return 4;
    if (os_remove("/large")) return 5;
    for (int i = 0; i < 40; i++) if (mapped[i * 4096] != i + 1) return 6;
    return 0;"""
    machine = Machine(mount=memory)
    (ended,) = machine.run([over(c_program(tmp_path, body), frames=14)])
    assert (ended.status, ended.output) == (0, "")
    assert ended.evictions > 100


def test_what_is_mapped_cannot_be_written(over: Any, tmp_path: Path) -> None:
    body = """
    os_close(os_open("/file", OS_OPEN_WRITE | OS_OPEN_CREATE, 0600));
    long file = os_open("/file", OS_OPEN_WRITE, 0);
    os_write_file(file, "abc", 3);
    char *mapped = (char *)os_map_file("/file", NULL);
    *(volatile char *)mapped = 'x';
    return 0;"""
    (ended,) = Machine(mount=memory).run([over(c_program(tmp_path, body))])
    assert ended.status == 139
    assert "segmentation fault" in ended.output


def test_behind_what_is_mapped_there_is_nothing_yet(over: Any, tmp_path: Path) -> None:
    body = """
    long file = os_open("/file", OS_OPEN_WRITE | OS_OPEN_CREATE, 0600);
    os_write_file(file, "abc", 3);
    const char *mapped = os_map_file("/file", NULL);
    if (mapped[2] != 'c' || mapped[4095]) return 1;
    return *(volatile const char *)(mapped + 4096);"""
    (ended,) = Machine(mount=memory).run([over(c_program(tmp_path, body))])
    assert ended.status == 139


def test_there_is_so_much_address_space_for_mapped_files(over: Any, tmp_path: Path) -> None:
    body = """
    long file = os_open("/file", OS_OPEN_WRITE | OS_OPEN_CREATE, 0600);
    os_write_file(file, "abc", 3);
    os_truncate(file, 5 * 4096);
    if (!os_map_file("/file", NULL) || os_map_file("/file", NULL)) return 1;
    os_truncate(file, 3 * 4096);
    if (!os_map_file("/file", NULL) || os_map_file("/file", NULL)) return 2;
    for (int i = 0; i < 100; i++) if (os_map_file("/file", NULL)) return 3;
    return (int)os_open("/file", OS_OPEN_READ, 0) == 3 ? 0 : 4;"""
    (ended,) = Machine(mount=memory).run([over(c_program(tmp_path, body), file_pages=8)])
    assert ended.status == 0


def test_a_server_that_dies_is_an_error_of_every_call(over: Any, tmp_path: Path) -> None:
    body = """
    long file = os_open("/file", OS_OPEN_BOTH | OS_OPEN_CREATE, 0600);
    print_line("open");
    flush();
    while (os_write_file(file, "x", 1) == 1);
    if (os_write_file(file, "x", 1) != -OS_EIO || os_open("/file", OS_OPEN_READ, 0) != -OS_EIO) return 1;
    return os_close(file) == -OS_EIO && os_map_file("/file", NULL) == NULL ? 7 : 2;"""
    machine = Machine(mount=memory)

    async def destroyer(exo: Exo, numbers: list[int]) -> None:
        while b"open" not in machine.kernel.console.written.get(numbers[0], b""):
            await exo.yield_()
        await exo.destroy(machine.serving)
        machine.serving = 0

    (ended,) = machine.run([over(c_program(tmp_path, body))], beside=destroyer)
    assert ended.status == 7


def test_a_python_program_has_the_same_files() -> None:
    seen: list[Any] = []

    async def main(exo: LinkedExo, arguments: Sequence[str]) -> int:
        await exo.os_make_directory("/dir", 0o700)
        file = await exo.os_open("/dir/file", OpenFlags.READ_WRITE | OpenFlags.CREATE, 0o640)
        contents = bytes(range(256)) * 400
        seen.append(await exo.os_write_file(file, contents))
        await exo.os_sync(file)
        await exo.os_sync()
        seen.append(await exo.os_seek(file, -100, Whence.END))
        seen.append(await exo.os_read_file(file, 1000) == contents[-100:])
        await exo.os_seek(file, 0)
        seen.append(await exo.os_read_file(file, 1 << 20) == contents)
        mapped = await exo.os_map_file("/dir/file")
        assert mapped is not None
        seen.append(await exo.read(*mapped) == contents)
        await exo.os_truncate(file, 10)
        await exo.os_close(file)
        await exo.os_link("/dir/file", "/dir/second")
        await exo.os_symlink("second", b"/dir/symbolic")
        await exo.os_rename("/dir/file", "/dir/third")
        await exo.os_set_mode("/dir/third", 0o604)
        it = await exo.os_stat("/dir/symbolic")
        seen.append((it.size, it.mode, it.links, it.kind, (await exo.os_stat("/dir/symbolic", follow=False)).kind))
        seen.append(await exo.os_read_link("/dir/symbolic"))
        directory = await exo.os_open("/dir")
        seen.append(sorted(entry.name for entry in await exo.os_list(directory)))
        await exo.os_remove("/dir/third")
        for path in ("/dir", "/dir/third", "/dir/second/x"):
            try:
                await exo.os_remove(path)
            except FileSystemError as error:
                seen.append(error.errno)
        seen.append(await exo.os_map_file("/dir/none"))
        return 0

    run_python(main, mount=memory)
    assert seen == [
        102400,
        102300,
        True,
        True,
        True,
        (10, 0o604, 2, Kind.FILE, Kind.SYMLINK),
        b"second",
        [b".", b"..", b"second", b"symbolic", b"third"],
        Errno.ENOTEMPTY,
        Errno.ENOENT,
        Errno.ENOTDIR,
        None,
    ]


def test_the_header_for_libraries_says_what_python_says() -> None:
    text = protocol.c_header()
    for operation in protocol.Operation:
        assert f"#define FILES_{operation.name} {operation.value}\n" in text
    assert {name for name in vars(FileCalls) if name.startswith("os_")} == {row[0] for row in FILE_ROWS}
    assert {name for name in vars(LinkedFiles) if name.startswith("os_")} == {row[0] for row in FILE_ROWS}


@pytest.mark.parametrize("call", ["os_open(bad, 0, 0)", "os_read_file(file, bad, 9)", "os_rename(name, bad)"])
def test_an_address_that_no_processor_has_ends_the_program_and_no_other(over: Any, call: str, tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        "static char name[3] = \"/a\"; char *bad = (char *)0x800000000000;\n"
        f"long file = os_open(name, OS_OPEN_BOTH | OS_OPEN_CREATE, 0600); os_write_file(file, name, 2);\n"
        f"os_seek(file, 0, OS_FROM_START); (void)name; return (int){call};",
    )  # fmt: skip
    (ended,) = Machine(mount=memory).run([over(source)])
    assert ended.status == 132
    assert ended.output.startswith("trap: exception 13 at rip" if over is native else "trap: exception 13, rip")
