"""Partitions: the table as the specification has it, the extents the kernel makes of it, and access lists that last."""

import io
import random
import struct
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.abi import partitions as format
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event, Sharing, Subject
from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE
from exokernel.abi.partitions import PartitionError
from exokernel.machine.disk import Disk, DiskError
from exokernel.partitioning import create_image, plan, read_table
from tests.filesystems import judges
from tests.kernel.audit import audit
from tests.machine_kit import Machine, examples, exo, machine

MIB = 1 << 20
SIZE = 8 * MIB
SECTORS = SIZE // SECTOR_SIZE
READ, WRITE, CONTROL = 1, 2, 8


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """8 MiB with partitions `one` and `two`, 1 MiB each."""
    create_image(tmp_path / "disk", SIZE, [("one", MIB), ("two", MIB)], seed=1)
    return tmp_path / "disk"


def start_of(path: Path, name: str) -> int:
    table = read_table(path)
    partition = table and table.find(name)
    assert partition is not None
    return partition.start


def boot(path: Path, init: Callable[[Machine], Awaitable[Any]], memory: int = 64) -> Any:
    """Switch a machine on over an image, run `init` as its first environment, and switch it off."""
    result: list[Any] = []
    with machine(disk=Disk(memory, path)) as made:

        async def main() -> None:
            result.append(await init(made))

        made.run(main)
    return result[0]


async def refused(call: Awaitable[Any]) -> Error | None:
    try:
        await call
    except Refused as error:
        return error.error
    return None


async def moved(sector: int, write: bool, frame: int) -> Error | None:
    """Begin a transfer and wait for it; the error if it is refused."""
    try:
        await exo.block(Event.DISK, await (exo.write_sectors if write else exo.read_sectors)(sector, 1, frame))
    except Refused as error:
        return error.error
    return None


# The table.


def test_a_table_is_where_and_what_the_specification_says(image: Path) -> None:
    """Read by hand: UEFI 2.10, tables 5-1 to 5-6."""
    data = image.read_bytes()
    assert data[510:512] == b"\x55\xaa"
    assert data[446:462] == struct.pack("<B3sB3sII", 0, b"\0\x02\0", 0xEE, b"\xff\xff\xff", 1, SECTORS - 1)
    assert data[462:510] == bytes(48)
    for here, other, entries_at in ((1, SECTORS - 1, 2), (SECTORS - 1, 1, SECTORS - 33)):
        header = data[here * 512 : here * 512 + 512]
        fields = struct.unpack("<8sIIIIQQQQ16sQIII", header[:92])
        assert fields[:3] == (b"EFI PART", 0x0001_0000, 92)
        assert fields[3] == crc32(header[:16] + bytes(4) + header[20:92])
        assert fields[4:9] == (0, here, other, 34, SECTORS - 34)
        assert fields[10:13] == (entries_at, 128, 128)
        assert fields[13] == crc32(data[entries_at * 512 : entries_at * 512 + 16384])
        assert header[92:] == bytes(420)
    entry = data[1024 + 128 : 1024 + 256]
    assert UUID(bytes_le=entry[:16]) == UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
    assert struct.unpack("<QQQ", entry[32:56]) == (4096, 4096 + 2047, 0)
    assert entry[56:].decode("utf-16-le").rstrip("\0") == "one"


def test_an_independent_reader_finds_the_same_partitions(image: Path) -> None:
    disks = pytest.importorskip("dissect.volume.disk")
    table = read_table(image)
    assert table is not None
    found = disks.Disk(io.BytesIO(image.read_bytes()))
    assert found.scheme is not None
    # Its sizes are one sector short: it takes the last sector of an entry for the one behind it.
    assert [(one.name, one.offset // 512, one.size // 512 + 1, one.guid) for one in found.partitions] == [
        (one.name, one.start, one.sectors, one.unique) for one in table.partitions
    ]


@pytest.mark.parametrize(("tool", "package"), [("sfdisk", "fdisk"), ("sgdisk", "gdisk")])
def test_ordinary_tools_verify_the_table(image: Path, tool: str, package: str) -> None:
    done = subprocess.run([judges.tool(tool, package), "--verify", str(image)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No errors" in done.stdout or "No problems" in done.stdout


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"], max_codepoint=0xFFFF), max_size=36)


@given(st.lists(st.tuples(names, st.integers(1, 8)), max_size=6), st.integers(0, 1 << 32))
@examples(60)
def test_what_is_built_is_read_back(wanted: list[tuple[str, int]], seed: int) -> None:
    size = (4 + sum(1 + sectors for _, sectors in wanted)) * MIB
    table = plan(size, [(name, sectors * SECTOR_SIZE) for name, sectors in wanted], seed)
    first, last = format.build(table, size // SECTOR_SIZE)
    data = first.ljust(size - len(last), b"\0") + last
    read = format.parse(lambda sector, count: data[sector * 512 : (sector + count) * 512], size // SECTOR_SIZE)
    assert read == table
    assert [(one.name, one.sectors) for one in table.partitions[1:]] == wanted
    assert all(one.start % format.ALIGNMENT == 0 for one in table.partitions)
    assert len({table.disk, *(one.unique for one in table.partitions)}) == len(table.partitions) + 1


def test_the_last_partition_may_have_the_rest(tmp_path: Path) -> None:
    table = create_image(tmp_path / "disk", SIZE, [("one", MIB), ("rest", 0)])
    rest = table.find("rest")
    assert rest is not None
    assert rest.start + rest.sectors == table.last_usable + 1 == SECTORS - 33


@pytest.mark.parametrize(
    ("size", "wanted", "sentence"),
    [
        (SIZE, [("one", 7 * MIB)], "make it larger or the partitions smaller"),
        (MIB, [("one", 0)], "make it larger"),
        (SIZE, [("one", 1000)], "multiples of 512"),
        (SIZE + 1, [], "multiples of 512"),
        (SIZE, [("one", 0), ("two", MIB)], "but the last"),
        (SIZE, [("x" * 37, MIB)], "36 letters"),
        (1 << 40, [(str(index), MIB) for index in range(128)], "room for 127"),
    ],
)
def test_partitions_that_do_not_fit_are_refused_with_a_sentence(
    tmp_path: Path, size: int, wanted: list[tuple[str, int]], sentence: str
) -> None:
    with pytest.raises(DiskError, match=sentence):
        create_image(tmp_path / "disk", size, wanted)


def damage(path: Path, *places: int) -> None:
    with open(path, "r+b") as file:
        for place in places:
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 0x40]))


@pytest.mark.parametrize("place", [512, 512 + 16, 512 + 40, 512 + 88, 1024 + 130, 1024 + 16000])
def test_a_damaged_primary_is_replaced_by_the_backup(image: Path, place: int) -> None:
    whole = read_table(image)
    damage(image, place)
    table = read_table(image)
    assert whole is not None
    assert table is not None
    assert table.from_backup
    assert table.partitions == whole.partitions
    assert start_of(image, "two") == boot(image, lambda made: _first_of(made, "two"))


async def _first_of(made: Machine, name: str) -> int:
    table = made.disk.partitions
    assert table is not None
    partition = table.find(name)
    assert partition is not None
    frame = await exo.alloc_page()
    assert await moved(partition.start, True, frame) is None
    return partition.start


def test_a_header_in_the_wrong_place_is_no_header(image: Path) -> None:
    """Its checksum is right, but it is the backup's."""
    data = bytearray(image.read_bytes())
    data[512:1024] = data[-512:]
    image.write_bytes(data)
    table = read_table(image)
    assert table is not None
    assert table.from_backup


def test_a_table_damaged_in_both_places_is_refused_with_a_sentence(image: Path) -> None:
    damage(image, 512 + 40, SIZE - 512 + 40)
    sentence = r"The partition table of .*disk is damaged \(the primary .*; the backup .*\); repair"
    with pytest.raises(DiskError, match=sentence):
        Disk(0, image)


def test_an_image_of_which_only_the_protective_record_is_left_is_refused(image: Path) -> None:
    with open(image, "r+b") as file:
        file.seek(512)
        file.write(bytes(40 * 512))
        file.seek(SIZE - 33 * 512)
        file.write(bytes(33 * 512))
    with pytest.raises(DiskError, match="damaged"):
        Disk(0, image)


changes_of_bytes = st.tuples(st.sampled_from(["primary", "backup"]), st.integers(0, 17_000), st.integers(0, 255))


@given(st.lists(changes_of_bytes, max_size=12))
@examples(300)
def test_a_corrupt_table_is_none_an_error_or_right(changes: list[tuple[str, int, int]]) -> None:
    """Never anything else, whatever is in it."""
    table = plan(SIZE, [("one", MIB), ("two", MIB)], 1)
    first, last = map(bytearray, format.build(table, SECTORS))
    for where, place, value in changes:
        part = first if where == "primary" else last
        part[place % len(part)] = value
    data = bytes(first).ljust(SIZE - len(last), b"\0") + last
    try:
        read = format.parse(lambda sector, count: data[sector * 512 : (sector + count) * 512], SECTORS)
    except PartitionError:
        return
    assert read is None or read.partitions == table.partitions


def _with_header(**fields: int) -> bytes:
    """A table whose checksums are right and whose numbers are not."""
    table = plan(SIZE, [("one", MIB)], 1)
    first, last = format.build(table, SECTORS)
    parts = []
    for data, at in ((first, 512), (last, len(last) - 512)):
        header = dict(format.Header.parse(data[at : at + 512]))
        header.update(fields)
        raw = format.Header.build({**header, "checksum": 0})
        raw = raw[:16] + crc32(raw).to_bytes(4, "little") + raw[20:]
        parts.append(data[:at] + raw.ljust(512, b"\0") + data[at + 512 :])
    return parts[0].ljust(SIZE - len(parts[1]), b"\0") + parts[1]


@pytest.mark.parametrize(
    "fields",
    [
        {"entries": 0}, {"entries": 1 << 30}, {"entry_size": 64}, {"entry_size": 129}, {"entries_at": 1 << 60},
        {"last_usable": 1 << 40}, {"last_usable": SECTORS - 1}, {"first_usable": 1},
        {"first_usable": SECTORS}, {"first_usable": 5000}, {"last_usable": 4096},
    ],
)  # fmt: skip
def test_a_table_that_lies_with_right_checksums_is_refused(tmp_path: Path, fields: dict[str, int]) -> None:
    (tmp_path / "disk").write_bytes(_with_header(**fields))
    with pytest.raises(DiskError, match="The partition table of"):
        Disk(0, tmp_path / "disk")


def test_partitions_that_overlap_are_refused(tmp_path: Path) -> None:
    table = plan(SIZE, [("one", MIB), ("two", MIB)], 1)
    one, two = table.partitions[1:]
    both = (table.partitions[0], one, format.Partition(2, "two", one.start + one.sectors - 1, 8, two.type, two.unique))
    first, last = format.build(format.PartitionTable(table.disk, 34, table.last_usable, both), SECTORS)
    (tmp_path / "disk").write_bytes(first.ljust(SIZE - len(last), b"\0") + last)
    with pytest.raises(DiskError, match="partition 3 lies outside the usable sectors or in another"):
        Disk(0, tmp_path / "disk")


# Extents.


def test_a_partition_needs_no_holder_and_the_first_environment_may_use_it(image: Path) -> None:
    one = start_of(image, "one")

    async def init(made: Machine) -> None:
        frame = await exo.alloc_page()
        await made.fill(frame, b"P" * PAGE_SIZE)
        assert await moved(one + 2047, True, frame) is None
        assert await refused(exo.write_sectors(one + 2047, 2, frame)) is Error.BAD_SECTOR
        assert await moved(one - 1, True, frame) is Error.BAD_SECTOR
        assert await refused(exo.free_sectors(one)) is Error.DENIED
        audit(made.kernel)

    boot(image, init)
    assert image.read_bytes()[(one + 2047) * 512 :][:512] == b"P" * 512


def test_a_partition_is_lent_by_who_controls_it_and_not_held(image: Path) -> None:
    one = start_of(image, "one")

    async def init(made: Machine) -> list[int]:
        source = (
            f"exo read_sectors, {one}, 1, {{data_frame}}, 0\n note rax\n exo write_sectors, {one}, 1, {{data_frame}}, 0\n"
            f"note rax\n exo share_sectors, {one}, {{me}}, 1, 15\n note rax\n exit 1"
        )
        answers = []
        for rights in (0, READ, READ | WRITE):
            guest = await made.guest(source, start=False)
            if rights:
                await exo.share_sectors(one, guest.number, Sharing.LOAN, rights)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            await made.end_of(guest)
            answers.append([word >> 63 for word in made.notes(guest, 3)])
        return answers

    assert boot(image, init) == [[1, 1, 1], [0, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("sector", [0, 1, 2, 33, SECTORS - 33, SECTORS - 1, 2048, 2048 + 511])
def test_the_table_and_the_records_are_everybodys_to_read_and_nobodys_to_write(image: Path, sector: int) -> None:
    before = image.read_bytes()

    async def init(made: Machine) -> None:
        frame = await exo.alloc_page()
        assert await moved(sector, False, frame) is None
        assert made.page(frame)[:512] == before[sector * 512 :][:512]
        assert await moved(sector, True, frame) is Error.BAD_SECTOR
        guest = await made.guest(
            f"exo read_sectors, {sector}, 1, {{data_frame}}, 0\n note rax\n mov rsi, rax\n exo block, 0, rsi, {{FOREVER}}\n"
            f"exo write_sectors, {sector}, 1, {{data_frame}}, 0\n note rax\n exit 1"
        )
        await made.end_of(guest)
        assert [word >> 63 for word in made.notes(guest, 2)] == [0, 1]
        for start in (0, 2048, SECTORS - 33):
            assert await refused(exo.set_access(Subject.EXTENT, start, 0, 0, 15)) is Error.DENIED
            assert await refused(exo.share_sectors(start, guest.number, Sharing.HOLD, 15)) is not None
            assert await refused(exo.share_sectors(start, guest.number, Sharing.LOAN, 3)) is not None
            assert await refused(exo.free_sectors(start)) is Error.DENIED

    boot(image, init)
    assert image.read_bytes() == before


def test_sectors_outside_partitions_and_behind_the_image_are_given_at_run_time(image: Path) -> None:
    """First those of the image, never a partition's, never across its end, and those behind are gone afterwards."""
    table = read_table(image)
    assert table is not None
    taken = [range(34), range(SECTORS - 33, SECTORS)]
    taken += [range(one.start, one.start + one.sectors) for one in table.partitions]

    async def init(made: Machine) -> None:
        seen: set[int] = set()
        while (error := await refused(_alloc(seen))) is None:
            pass
        assert error is Error.NO_SECTORS
        assert not any(sector in run for sector in seen for run in taken)
        assert {SECTORS, SECTORS + 63} <= seen
        assert 34 in seen

    async def _alloc(seen: set[int]) -> None:
        start = await exo.alloc_sectors(16)
        run = range(start, start + 16)
        assert not (run.start < SECTORS < run.stop)
        assert not seen & set(run)
        seen.update(run)

    async def across(made: Machine) -> Error | None:
        return await refused(exo.alloc_sectors(32, SECTORS - 16))

    boot(image, init)
    boot(image, across)
    (image.parent / "bare").write_bytes(bytes(16 * 512))

    async def behind(made: Machine) -> None:
        assert await refused(exo.alloc_sectors(8, 0)) is Error.BAD_SECTOR
        assert await refused(exo.alloc_sectors(8, 12)) is Error.BAD_SECTOR
        assert await exo.alloc_sectors(64) == 16

    boot(image.parent / "bare", behind)


def test_an_image_without_a_table_is_the_first_environments(tmp_path: Path) -> None:
    contents = random.Random(1).randbytes(64 * 512)
    (tmp_path / "disk").write_bytes(contents)

    async def init(made: Machine) -> None:
        frame = await exo.alloc_page()
        assert await moved(5, False, frame) is None
        assert made.page(frame)[:512] == contents[5 * 512 :][:512]
        assert await moved(63, True, frame) is None
        guest = await made.guest("exo read_sectors, 0, 1, {data_frame}, 0\n note rax\n exit 1")
        await made.end_of(guest)
        assert made.notes(guest, 1)[0] >> 63

    boot(tmp_path / "disk", init)
    assert (tmp_path / "disk").read_bytes() == contents[: 63 * 512] + contents[5 * 512 : 6 * 512]


# Access lists.


async def _child(made: Machine, one: int, component: int | None) -> list[int]:
    """Whether a child may read and write the partition, with a capability of this name or none."""
    guest = await made.guest(
        f"exo read_sectors, {one}, 1, {{data_frame}}, 0\n note rax\n exo write_sectors, {one}, 1, {{data_frame}}, 0\n"
        "note rax\n exit 1",
        start=False,
    )
    if component is not None:
        await exo.forge_capability(0, component, 15, 5)
        await exo.give_capability(guest.number, 5, 15, 3)
    await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
    await made.end_of(guest)
    return [int(word >> 63 == 0) for word in made.notes(guest, 2)]


def test_who_may_use_a_partition_survives_a_reboot(image: Path) -> None:
    one, two = start_of(image, "one"), start_of(image, "two")

    async def give(made: Machine) -> None:
        assert await _child(made, one, 7) == [0, 0]
        await exo.forge_capability(0, 7, 15, 4)
        await exo.set_access(Subject.EXTENT, one, 2, 4, READ)
        assert await _child(made, one, 7) == [1, 0]

    async def look(made: Machine) -> list[list[int]]:
        return [await _child(made, one, 7), await _child(made, one, 8), await _child(made, one, None),
                await _child(made, two, 7)]  # fmt: skip

    async def take(made: Machine) -> None:
        await exo.set_access(Subject.EXTENT, one, 2, 0, 0)
        assert await _child(made, one, 7) == [0, 0]

    boot(image, give)
    assert boot(image, look) == [[1, 0], [0, 0], [0, 0], [0, 0]]
    assert boot(image, look) == [[1, 0], [0, 0], [0, 0], [0, 0]]
    boot(image, take)
    assert boot(image, look) == [[0, 0]] * 4


def test_all_four_entries_are_recorded_with_long_names(image: Path) -> None:
    one = start_of(image, "one")

    async def give(made: Machine) -> None:
        for index in range(4):
            await exo.forge_capability(0, 100 + index, 15, 4)
            for component in range(40):
                await exo.forge_capability(4, component, 15, 4)
            await exo.set_access(Subject.EXTENT, one, index, 4, 1 + index)

    async def look(made: Machine) -> list[Any]:
        recorded = made.kernel.disk.extent(one).recorded
        assert recorded is not None
        root = made.kernel.environments[made.kernel.first_environment].name
        return [(entry.name[len(root) :], entry.permissions) for entry in recorded.entries[:4] if entry]

    boot(image, give)
    assert boot(image, look) == [((100 + index, *range(40)), 1 + index) for index in range(4)]


def test_a_record_survives_a_power_cut(image: Path) -> None:
    one = start_of(image, "one")
    with machine(disk=Disk(64, image)) as made:

        async def init() -> None:
            await exo.forge_capability(0, 7, 15, 4)
            await exo.set_access(Subject.EXTENT, one, 0, 4, READ | WRITE)

        made.run(init)
        made.kernel.disk.power_cut(random.Random(1))
    assert boot(image, lambda made: _child(made, one, 7)) == [1, 1]


def test_only_who_controls_a_partition_writes_its_list(image: Path) -> None:
    one = start_of(image, "one")

    async def init(made: Machine) -> list[int]:
        answers = []
        for permissions in (0, READ | WRITE, CONTROL):
            guest = await made.guest(f"exo set_access, {Subject.EXTENT}, {one}, 1, 3, 15\n note rax\n exit 1", start=False)
            await exo.forge_capability(0, 7, 15, 4)
            await exo.give_capability(guest.number, 4, 15, 3)
            await exo.set_access(Subject.EXTENT, one, 0, 4, permissions)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            await made.end_of(guest)
            answers.append(made.notes(guest, 1)[0] >> 63)
        return answers

    assert boot(image, init) == [1, 1, 0]


def test_a_damaged_record_gives_nobody_a_right(image: Path) -> None:
    one = start_of(image, "one")

    async def give(made: Machine) -> None:
        await exo.forge_capability(0, 7, 15, 4)
        await exo.set_access(Subject.EXTENT, one, 0, 4, READ)

    boot(image, give)
    table = read_table(image)
    assert table is not None
    partition = table.find("one")
    assert partition is not None
    sector = format.access_sector(table, partition, 0)
    assert sector is not None
    whole = image.read_bytes()[sector * 512 :][:512]
    assert format.parse_access(whole, partition, 0) == (READ, (7,))
    assert boot(image, lambda made: _child(made, one, 7)) == [1, 0]
    chance = random.Random(2)
    for _ in range(300):
        broken = bytearray(whole)
        broken[chance.randrange(512)] ^= 1 << chance.randrange(8)
        assert format.parse_access(bytes(broken), partition, 0) is None
    assert format.parse_access(whole, partition, 1) is None, "another entry's"
    two = table.find("two")
    assert two is not None
    assert format.parse_access(whole, two, 0) is None, "another partition's"
    damage(image, sector * 512 + 36)
    assert boot(image, lambda made: _child(made, one, 7)) == [0, 0]


def test_without_a_place_for_it_a_list_is_not_changed(tmp_path: Path) -> None:
    """A disk partitioned by another tool: the first environment has its partitions, and can lend them."""
    table = plan(SIZE, [("one", MIB)], 1)
    foreign = format.PartitionTable(table.disk, 34, table.last_usable, table.partitions[1:])
    first, last = format.build(foreign, SECTORS)
    (tmp_path / "disk").write_bytes(first.ljust(SIZE - len(last), b"\0") + last)

    async def init(made: Machine) -> Error | None:
        frame = await exo.alloc_page()
        assert await moved(4096, True, frame) is None
        return await refused(exo.set_access(Subject.EXTENT, 4096, 0, 0, READ))

    assert boot(tmp_path / "disk", init) is Error.NO_SECTORS


def test_a_lender_that_ends_takes_its_loan_of_a_partition_with_it(image: Path) -> None:
    one = start_of(image, "one")

    async def init(made: Machine) -> None:
        borrower = await exo.create_environment()
        lender = await made.guest(f"exo share_sectors, {one}, {borrower}, 0, 3\n note rax\n exit 1", start=False)
        await exo.forge_capability(0, 7, 15, 4)
        await exo.give_capability(lender.number, 4, 15, 3)
        await exo.give_capability(lender.number, 0, 15, 4)
        await exo.set_access(Subject.EXTENT, one, 0, 4, CONTROL)
        await exo.start(lender.number, 0x40_0000, 0x70_1000, 0)
        await made.end_of(lender)
        assert made.notes(lender, 1) == [0]
        assert not made.kernel.disk.extent(one).loans
        assert not made.kernel.disk.rights(made.kernel.environments[borrower], made.kernel.disk.extent(one)) & 3

    boot(image, init)
