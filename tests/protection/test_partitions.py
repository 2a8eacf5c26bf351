"""Attacks on a disk image: the table, the access records and partitions of others, by somebody with no right to any.

Whatever is refused must be refused before the disk sees it: the record of the device has nothing of it.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from exokernel.abi.errors import Error
from exokernel.abi.partitions import PartitionTable
from exokernel.machine.disk import Disk, Written
from exokernel.partitioning import create_image
from tests.kernel.audit import audit
from tests.machine_kit import Guest, Machine, error_of, exo, machine

SIZE = 6 << 20
SECTORS = SIZE // 512


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, PartitionTable]:
    """Two partitions, full of what nobody else may see or change."""
    path = tmp_path / "disk"
    table = create_image(path, SIZE, [("one", 1 << 20), ("two", 0)], seed=1)
    with open(path, "r+b") as file:
        for part in table.partitions[1:]:
            file.seek(part.start * 512)
            file.write(random.Random(part.start).randbytes(part.sectors * 512))
    return path, table


def attacked(
    image: tuple[Path, PartitionTable], source: str, prepare: Callable[[Machine, Guest], Awaitable[None]] | None = None
) -> tuple[list[int], list[Written]]:
    """Let an attacker with no capability but its own name run over the image: its notes, and what the device was told to
    write.  The image must be as it was, but for what `prepare` did."""
    path, table = image
    one, two = table.partitions[1:]
    notes: list[int] = []
    with machine(disk=Disk(64, path)) as made:
        expected = b""

        async def init() -> None:
            nonlocal expected
            guest = await made.guest(source, start=False, one=one.start, two=two.start, access=table.partitions[0].start)
            if prepare is not None:
                await prepare(made, guest)
            expected = made.disk.read(0, SECTORS)
            made.disk.record = []
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            assert await made.end_of(guest) == 1
            notes.extend(made.notes(guest, 64))
            audit(made.kernel)
            assert made.disk.read(0, SECTORS) == expected

        made.run(init)
        record = [one for one in made.disk.record or () if isinstance(one, Written)]
    assert path.read_bytes() == expected
    return notes, record


@pytest.mark.parametrize("place", ["0", "1", "2", "33", "{access}", "{access} + 511", "{one}", "{one} + 2047", "{two}",
                                   "11999", "12255", "12287"])  # fmt: skip
@pytest.mark.parametrize("count", [1, 8])
def test_nothing_of_the_image_is_written(image: tuple[Path, PartitionTable], place: str, count: int) -> None:
    notes, record = attacked(
        image, f"mov rdi, {place}\n exo write_sectors, rdi, {count}, {{data_frame}}, 0, 1\n note rax\n exit 1"
    )
    assert error_of(notes[0]) is Error.BAD_SECTOR
    assert record == []


def test_a_run_from_ones_own_sectors_does_not_reach_into_a_partition_or_the_table(
    image: tuple[Path, PartitionTable],
) -> None:
    notes, record = attacked(
        image,
        "exo alloc_sectors, 4, 2044\n note rax\n exo write_sectors, 2044, 5, {data_frame}, 0\n note rax\n"
        "exo alloc_sectors, 8, 30\n note rax\n exo alloc_sectors, 8, {one}\n note rax\n"
        " exo alloc_sectors, 8, 12284\n note rax\n exo write_sectors, 2044, 4, {data_frame}, 0\n note rax\n"
        "mov rsi, rax\n exo block, 0, rsi, {FOREVER}\n exo free_sectors, 2044\n exit 1",
    )
    assert notes[0] == 2044
    assert [error_of(one) for one in notes[1:5]] == [Error.BAD_SECTOR] * 4
    assert [(one.sector, len(one.data)) for one in record] == [(2044, 2048)]


def test_no_list_of_a_partition_is_written_and_nothing_is_lent(image: tuple[Path, PartitionTable]) -> None:
    notes, record = attacked(
        image,
        "\n".join(
            f" exo {call}\n note rax"
            for place in ("{one}", "{two}", "{access}", "0", "12255")
            for call in (
                f"set_access, {{Subject_EXTENT}}, {place}, 0, 0, 15",
                f"share_sectors, {place}, {{me}}, 1, 15",
                f"free_sectors, {place}",
                f"unshare_sectors, {place}, {{me}}",
            )
        )
        + "\n exit 1",
    )
    assert [error_of(one) for one in notes[:20]] == [Error.DENIED] * 20
    assert record == []


def test_a_page_is_not_backed_by_anothers_partition(image: tuple[Path, PartitionTable]) -> None:
    """The kernel's own write of a page that it takes must not go there either."""
    notes, record = attacked(
        image,
        "exo set_backing, {data_frame}, {one}, 0\n note rax\n exo set_backing, {data_frame}, 0, 0\n note rax\n exit 1",
    )
    assert [error_of(one) for one in notes[:2]] == [Error.BAD_SECTOR] * 2
    assert record == []


def test_a_name_beside_the_one_in_the_list_opens_nothing(image: tuple[Path, PartitionTable]) -> None:
    """The list names component 7 of the root; the attacker has 8 of it, and 7 of its own name."""

    async def prepare(made: Machine, guest: Guest) -> None:
        one = image[1].partitions[1].start
        await exo.forge_capability(0, 7, 15, 4)
        await exo.set_access(1, one, 0, 4, 15)
        await exo.forge_capability(0, 8, 15, 4)
        await exo.give_capability(guest.number, 4, 15, 5)

    notes, record = attacked(
        image,
        "exo forge_capability, 0, 7, 15, 6\n exo forge_capability, 5, 7, 15, 7\n"
        "exo write_sectors, {one}, 1, {data_frame}, 0\n note rax\n exo read_sectors, {one}, 1, {data_frame}, 0\n note rax\n"
        "exo set_access, {Subject_EXTENT}, {one}, 0, 0, 15\n note rax\n exit 1",
        prepare,
    )
    assert [error_of(one) for one in notes[:3]] == [Error.BAD_SECTOR, Error.BAD_SECTOR, Error.DENIED]
    assert record == []


def test_who_may_read_a_partition_does_not_write_it(image: tuple[Path, PartitionTable]) -> None:
    async def prepare(made: Machine, guest: Guest) -> None:
        one = image[1].partitions[1].start
        await exo.forge_capability(0, 7, 15, 4)
        await exo.set_access(1, one, 0, 4, 1)
        await exo.give_capability(guest.number, 4, 15, 5)

    notes, record = attacked(
        image,
        "exo read_sectors, {one}, 1, {data_frame}, 0\n note rax\n exo write_sectors, {one}, 1, {data_frame}, 0\n note rax\n"
        "exo write_sectors, {one}, 8, {data_frame}, 0, 7\n note rax\n exit 1",
        prepare,
    )
    assert error_of(notes[0]) is None
    assert [error_of(one) for one in notes[1:3]] == [Error.BAD_SECTOR] * 2
    assert record == []
