"""The figures of storage: that what they are compared with is a comparison, and those that do not depend on the host."""

import os
from functools import partial
from pathlib import Path

import pytest

from exokernel.bench import storage
from exokernel.machine.disk import Disk
from exokernel.machine.drives import Ideal
from libos.filesystems.ext3.filesystem import Ext3
from tests.filesystems import judges


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same measurements of less."""
    for name, value in {"FILE": 6 << 20, "VIRTUAL_FILE": 2 << 20, "SMALL_FILES": 50, "ENTRIES": 3000, "LOOKUPS": 3}.items():
        monkeypatch.setattr(storage, name, value)
    storage._crowded.cache_clear()
    yield
    storage._crowded.cache_clear()


def test_the_plain_reader_reads_what_the_library_has_written(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(32 << 20))
    pieces = [os.urandom(storage.PIECE) for _ in range(9)]

    async def work(files: Ext3) -> int:
        inode = await files.create(files.root, b"file", 0o644)
        for index, piece in enumerate(pieces):
            await files.write(inode, index * storage.PIECE, piece)
        return inode

    disk = Disk(path=path, drive=Ideal)
    inode = storage._mounted(disk, work, make=True)
    disk.close()
    judges.assert_silent(path)
    reader = storage.PlainReader(path)
    found = [os.pread(reader.file, storage.BLOCK, block * storage.BLOCK) for block in reader.blocks(inode)]
    reader.close()
    assert b"".join(found) == b"".join(pieces)


@pytest.mark.usefixtures("small")
def test_every_figure_has_a_value_and_a_reference() -> None:
    for name, measure in storage.figures():
        told = measure(1)
        assert told["value"] > 0, name
        assert told["reference"] > 0, name
        assert told["what"], name


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("model", storage.MODELS)
def test_virtual_time_is_the_same_each_time(model: str) -> None:
    for measure in (storage.lookup, storage.virtual_read, storage.virtual_write):
        assert measure(model, 1) == partial(measure, model)(1)


@pytest.mark.usefixtures("small")
def test_the_models_differ_as_disks_do() -> None:
    ideal, ssd, rotating = (storage.virtual_read(model, 1)["value"] for model in ("ideal", "ssd", "rotating"))
    assert ideal > 5 * ssd > 25 * rotating


@pytest.mark.slow
def test_a_lookup_among_50000_entries_touches_a_handful_of_blocks() -> None:
    told = storage.lookup_blocks(1)
    assert told["value"] <= 6
    assert told["reference"] > 300
