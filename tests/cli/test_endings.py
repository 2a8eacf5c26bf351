"""How a run ends, and what the user is told of it."""

import json
import os
import pty
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from exokernel.scenario import ProgramSpec, Scenario
from libos.replay import read_trace
from tests.cli.commands import exo, exo_process, start

LONG = ("pagewalk", "--", "--pattern", "sequential", "--pages", "20", "--steps", "1000000000")
INTERRUPTED = "import signal, threading\nthreading.Timer(2, signal.raise_signal, [signal.SIGINT]).start()"
WALK = ("--frames", "8", "--", "--pattern", "loop", "--pages", "20", "--steps", "100")


def pager(victim: str) -> str:
    return f"from libos.replacement import Fifo\nclass Mine(Fifo):\n    def victim(self, bits):\n        {victim}\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_the_exit_status_is_the_programs_own(tmp_path: Path, status: int) -> None:
    (tmp_path / "mine.c").write_text("int main(int argc, char **argv) { return argc - 1; }\n")
    assert exo("run", "mine.c", "--", *["x"] * status).status == status


def test_the_highest_exit_status_of_several_programs_counts() -> None:
    assert exo("run", "hello", "--env", "wordfreq -- nowhere", "--env", "hello").status == 2


@pytest.mark.parametrize("libos", ["native+clock", "native+fifo", "python+clock"])
def test_a_null_pointer_is_a_sentence_and_status_139(tmp_path: Path, libos: str) -> None:
    (tmp_path / "mine.c").write_text("int main(void) { return *(volatile int *)0; }\n")
    ended = exo("run", "mine.c", "--libos", libos)
    assert ended.status == 139
    assert ended.out.startswith("segmentation fault at 0x0 (read), rip 0x4")


def test_what_is_no_option_has_status_2() -> None:
    assert exo("run", "hello", "--nonsense").status == 2
    ended = exo("rn")
    assert ended.status == 2
    assert "No such command 'rn'. Did you mean 'run'?" in ended.err


# Pagers of the user's own.


def test_a_pager_of_the_users_own_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(pager("return super().victim(bits)"))
    (tmp_path / "mine.c").write_text(
        '#include "pager.h"\n'
        "static uint8_t *here;\nstatic uint32_t all;\n"
        "void pager_start(uint32_t pages, uint32_t frames, uint64_t seed)\n"
        "{ (void)frames, (void)seed; all = pages; here = pager_memory(pages); }\n"
        "void pager_admit(uint32_t page) { here[page] = 1; }\n"
        "void pager_forget(uint32_t page) { here[page] = 0; }\n"
        "uint32_t pager_victim(void)\n"
        "{ static uint32_t last; do last = (last + 1) % all; while (!here[last]); return last; }\n"
    )
    for name in ("./mine.py:Mine", "./mine.py", "./mine.c"):
        ended = exo("run", "pagewalk", "--json", "--libos", name, *WALK)
        assert ended.status == 0
        (program,) = json.loads(ended.out)["programs"]
        assert program["library"] == name
        assert program["faults"] > 20


@pytest.mark.parametrize(
    ("victim", "error"), [("raise RuntimeError('no idea')", "RuntimeError: no idea"), ("self.forget(77)", "KeyError: 77")]
)
def test_an_exception_in_a_pager_is_told_with_the_line_of_the_pager(tmp_path: Path, victim: str, error: str) -> None:
    (tmp_path / "mine.py").write_text(pager(victim))
    ended = exo("run", "pagewalk", "--libos", "./mine.py:Mine", *WALK)
    assert ended.status == 128
    assert "(pagewalk) ended at cycle" in ended.err
    assert "its Python code raised an exception" in ended.err
    assert error in ended.err
    assert "mine.py:4 in victim" in ended.err


def test_a_victim_that_is_not_resident_ends_the_program_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(pager("return 123456"))
    ended = exo("run", "pagewalk", "--libos", "./mine.py:Mine", *WALK)
    assert ended.status == 134
    assert "named as its victim page 123456, which is not resident." in ended.out


def test_a_pager_that_never_comes_back_is_stopped_and_told_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(pager("while True: pass"))
    (tmp_path / "run.toml").write_text(
        "settings = {watchdog_seconds = 0.2}\n[[env]]\napp = 'pagewalk'\nlibos = './mine.py:Mine'\nframes = 8\n"
        "arguments = ['--pattern', 'loop', '--pages', '20', '--steps', '100']\n"
    )
    ended = exo("run", "--scenario", "run.toml")
    assert ended.status == 128
    assert "its Python code did not come back to the kernel" in ended.err
    assert "mine.py:4 in victim" in ended.err


# Stopping to look.


def test_stopping_at_an_upcall_shows_who_where_why_registers_and_instructions() -> None:
    ended = exo("run", "hello", "--stop-on", "upcall")
    assert ended.status == 0
    text = ended.out
    assert "(hello) at cycle " in text
    assert ": the kernel is about to make the up-call page_fault(0x" in text
    assert "up-calls: page_fault at 0x1000" in text
    assert "level 4: entry at 0x" in text
    assert "level 1 (page): entry at 0x" in text
    assert "  -> the page is not mapped\n" in text
    assert " rip 0000000000401" in text
    assert "\n0x401" in text
    assert "stopped; " in text


@pytest.mark.parametrize("libos", ["native+clock", "python+fifo"])
def test_stopping_at_a_death_that_the_library_reports_shows_the_access_that_failed(tmp_path: Path, libos: str) -> None:
    (tmp_path / "mine.c").write_text("int main(void) { *(volatile int *)main = 1; return 0; }\n")
    ended = exo("run", "mine.c", "--libos", libos, "--stop-on", "death")
    assert ended.status == 139
    assert "it ended with status 139; its last up-call was page_fault(0x4010" in ended.out
    assert "(write), in user memory" in ended.out
    assert "  -> it is mapped read-only\n" in ended.out
    assert "mov dword ptr" in ended.out


def test_a_death_in_a_downcall_is_told_with_the_rule_the_instruction_and_the_call(tmp_path: Path) -> None:
    (tmp_path / "mine.c").write_text(
        '#include "exo.h"\nint main(void) {\n    exo_set_upcall_stack(0x7000000000, 4096, EXO_SELF, 0);\n'
        "    exo_console_write((char *)0x600000000000, 5);\n    return 0;\n}\n"
    )
    for option in ([], ["--stop-on", "death"]):
        ended = exo("run", "mine.c", *option)
        assert ended.status == 128
        assert "its handler cannot run: the up-call stack is not mapped writable" in ended.err
        assert "delivering page_fault for 0x600000000000" in ended.err
        assert ": syscall\n" in ended.err
        assert "in the down-call console_write\n" in ended.err
        assert "rip 0000000000401" in ended.err
        assert ("no page table covers it" in ended.out) is bool(option)


# Ctrl-C.


def test_ctrl_c_prints_the_state_and_closes_the_files(tmp_path: Path) -> None:
    process = start("run", "--trace", "trace", "--record-references", "references", *LONG)
    _wait_until(lambda: (tmp_path / "references").exists() and (tmp_path / "references").stat().st_size > 10_000)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "million cycles, " in out
    assert "page faults, running: pagewalk" in out
    assert "interrupted; " in out
    assert err == ""
    assert json.loads((tmp_path / "trace").read_text())["traceEvents"]
    assert len(read_trace(tmp_path / "references")) > 1000


def test_a_second_ctrl_c_ends_a_run_that_does_not_come_back(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(pager("open('looping', 'w'); [None for _ in iter(int, 1)]"))
    process = start("run", "pagewalk", "--libos", "./mine.py:Mine", "--trace", "trace", *WALK)
    _wait_until((tmp_path / "looping").exists)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "exo: Interrupted twice; the run was given up where it stood.\n"
    assert json.loads((tmp_path / "trace").read_text())["traceEvents"]


def test_ctrl_c_ends_a_demonstration_as_a_whole() -> None:
    process = start("demo", "paging", python=INTERRUPTED)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "exo: Interrupted.\n")


def test_ctrl_c_in_a_run_from_python_is_a_keyboard_interrupt() -> None:
    timer = threading.Timer(0.5, signal.raise_signal, [signal.SIGINT])
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            Scenario((ProgramSpec(LONG[0], arguments=LONG[2:]),)).run()
    finally:
        timer.cancel()


def _wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)


# Where the output goes.


def test_a_reader_that_goes_away_is_no_error() -> None:
    for words in (["list"], ["run", "pagewalk", "--", "--pattern", "loop", "--pages", "9", "--steps", "99"]):
        process = start(*words)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(timeout=30) != 0
        process.stderr.close()


@pytest.mark.parametrize("words", [["list"], ["run", "hello"]])
def test_output_that_cannot_be_written_is_a_sentence(words: list[str]) -> None:
    ended = exo_process(*words, python="import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)")
    assert ended.sentences == "The output cannot be written: No space left on device."


def test_a_terminal_sees_a_line_of_progress_that_goes_away_in_the_end() -> None:
    ours, theirs = pty.openpty()
    words = ("pagewalk", "--", "--pattern", "sequential", "--pages", "9", "--steps", "3000000")
    process = start("run", *words, errors_to=theirs)
    os.close(theirs)
    out, _ = process.communicate(timeout=60)
    seen = os.read(ours, 1 << 16)
    os.close(ours)
    assert seen.startswith(b"\r\x1b[K")
    assert b"million cycles" in seen
    assert seen.endswith(b"\r\x1b[K")
    assert "million cycles" not in out
