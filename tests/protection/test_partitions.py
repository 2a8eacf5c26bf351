"""Attacks on a disk image: the table, the access records and partitions of others, by somebody with no right to any.

Whatever is refused must be refused before the disk sees it: the record of the device has nothing of it.
"""

import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from zlib import crc32

import pytest

from exokernel.abi import partitions as format
from exokernel.abi.errors import Error
from exokernel.abi.flags import SELF, Sharing
from exokernel.abi.partitions import PartitionTable
from exokernel.machine.disk import Disk, DiskError, Written
from exokernel.partitioning import create_image, plan
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


def _forged() -> bytes:
    """The end of an image with a table: its entries and the backup of its header."""
    return format.build(plan(SIZE, [("mine", 1 << 20)], 1), SECTORS)[1]


@pytest.mark.parametrize(
    "end", [_forged(), b"EFI PART".ljust(512, b"\0"), _forged()[-512:]], ids=["table", "signature", "header"]
)
def test_what_a_file_has_at_the_end_of_an_image_does_not_make_a_table_of_it(tmp_path: Path, end: bytes) -> None:
    """The last block of a file system may be of any program's file."""
    (tmp_path / "disk").write_bytes(bytes(SIZE - len(end)) + end)
    disk = Disk(0, tmp_path / "disk")
    assert disk.partitions is None
    disk.close()


@pytest.mark.parametrize("entries_at", [33, 34, 4096, SECTORS - 65])
def test_entries_among_the_usable_sectors_are_no_table(tmp_path: Path, entries_at: int) -> None:
    """Who may write there could write another table with the same checksum."""
    first, last = format.build(plan(SIZE, [("mine", 1 << 20)], 1), SECTORS)
    image = bytearray(first.ljust(SIZE - len(last), b"\0") + last)
    image[entries_at * 512 : entries_at * 512 + 128 * 128] = first[1024:]
    for place in (1, SECTORS - 1):
        header = image[place * 512 : place * 512 + 512]
        header[72:80] = entries_at.to_bytes(8, "little")
        header[16:20] = bytes(4)
        header[16:20] = crc32(header[:92]).to_bytes(4, "little")
        image[place * 512 : place * 512 + 512] = header
    (tmp_path / "disk").write_bytes(image)
    with pytest.raises(DiskError, match="entries lie where anybody's sectors may be"):
        Disk(0, tmp_path / "disk")


def _lent_by_a_controller(image: Path, one: int, ends: Callable[[int, int], Awaitable[None]]) -> Error | None:
    """An environment that controls the partition by its list lends it to another; after `ends(one, lender)` the borrower
    reads: what it is told."""
    told: list[Error | None] = []
    with machine(disk=Disk(64, image)) as made:

        async def init() -> None:
            reads = "exo read_sectors, {one}, 1, {data_frame}, 0\n note rax\n exit 1"
            borrower = await made.guest(reads, start=False, one=one)
            lender = await made.guest(
                "exo share_sectors, {one}, {borrower}, {Sharing_LOAN}, 1\n note rax\n"
                " exo block, {Event_WOKEN}, 0, {FOREVER}\n exit 1",
                start=False, one=one, borrower=borrower.number,
            )  # fmt: skip
            await exo.forge_capability(0, 7, 15, 4)
            await exo.set_access(1, one, 0, 4, 15)
            await exo.give_capability(lender.number, 4, 15, 5)
            await exo.start(lender.number, 0x40_0000, 0x70_1000, 0)
            await exo.block(3, 0, await exo.time() + 100_000)
            assert made.notes(lender, 1) == [0]
            await ends(one, lender.number)
            await exo.start(borrower.number, 0x40_0000, 0x70_1000, 0)
            assert await made.end_of(borrower) == 1
            told.append(error_of(made.notes(borrower, 1)[0]))
            await exo.wake(lender.number)

        made.run(init)
    return told[0]


def test_a_loan_of_a_partition_ends_when_its_lender_is_no_longer_in_the_list(image: tuple[Path, PartitionTable]) -> None:
    path, table = image

    async def nothing(one: int, lender: int) -> None:
        pass

    async def revoked(one: int, lender: int) -> None:
        await exo.set_access(1, one, 0, 4, 0)

    async def weaker(one: int, lender: int) -> None:
        await exo.set_access(1, one, 0, 4, 3)

    one = table.partitions[1].start
    assert _lent_by_a_controller(path, one, nothing) is None
    assert _lent_by_a_controller(path, one, revoked) is Error.BAD_SECTOR
    assert _lent_by_a_controller(path, one, weaker) is Error.BAD_SECTOR


def test_who_lets_go_of_a_partition_ends_no_loan_of_another(image: tuple[Path, PartitionTable]) -> None:
    path, table = image

    async def held_and_let_go(one: int, lender: int) -> None:
        await exo.share_sectors(one, SELF, Sharing.HOLD, 15)
        await exo.free_sectors(one)

    assert _lent_by_a_controller(path, table.partitions[1].start, held_and_let_go) is None


def test_the_name_of_an_environment_is_not_recorded(image: tuple[Path, PartitionTable]) -> None:
    """The next start gives the same name to another."""
    path, table = image
    one = table.partitions[1].start
    told: list[Error | None] = []

    def boot(source: str, prepare: bool) -> None:
        with machine(disk=Disk(64, path)) as made:

            async def init() -> None:
                guest = await made.guest(source, start=False, one=one)
                if prepare:
                    await exo.forge_capability(0, 7, 15, 4)
                    await exo.set_access(1, one, 0, 4, 15)
                    await exo.give_capability(guest.number, 4, 15, 5)
                await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
                assert await made.end_of(guest) == 1
                told.append(error_of(made.notes(guest, 1)[0]))

            made.run(init)

    boot("exo set_access, {Subject_EXTENT}, {one}, 1, 0, 15\n note rax\n exit 1", True)
    boot("exo read_sectors, {one}, 1, {data_frame}, 0\n note rax\n exit 1", False)
    assert told == [Error.BAD_ARGUMENT, Error.BAD_SECTOR]
