"""Programs and files: the same program over a native library, over one in Python and on the host sees the same."""

from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.downcalls import Exo
from libos.filesystems.interface import FileSystem
from libos.filesystems.memory import MemoryFileSystem
from tests.apps.host import run_on_the_host
from tests.libos.machines import Machine, native
from tests.libos.pythonic import over_python

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
