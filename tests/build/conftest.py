"""A store of its own for each test, and a compiler that counts how often it runs."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

GREETING = '#include "libos.h"\nint main(void) { return (int)os_write("hello\\n", 6) - 6; }\n'


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXOKERNEL_CACHE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "mine.c"
    file.write_text(GREETING)
    return file


@pytest.fixture
def compiler_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often the compiler has run so far."""
    real, log, script = shutil.which("cc"), tmp_path / "runs", tmp_path / "counted-cc"
    if real is None:
        pytest.skip("there is no cc on this computer")
    log.touch()
    script.write_text(f'#!/bin/sh\necho run >> {log}\nexec {real} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    return lambda: len(log.read_text().splitlines())
