"""What can be mounted, what only for reading, and what is refused with a sentence."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from exokernel.abi.layout import OWN_PAGE, SECTOR_SIZE
from exokernel.abi.pages import OwnPage, offset_of
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.ext3.geometry import decode
from libos.filesystems.ext3.journal import Journal
from libos.filesystems.ext3.layout import Incompatible, ReadOnlyCompatible, State, Superblock
from libos.filesystems.ext3.records import SUPERBLOCK_OFFSETS
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystemError
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.filesystems.stages import BASE, EPOCH, OnDisk, Session
from tests.filesystems.test_mkfs import made
from tests.storage.contexts import Failing
from tests.storage.kit import DiskMachine

T = TypeVar("T")
MIB = 1 << 20
STAGE = OnDisk(size=8 * MIB)


def superblock_of(image: bytes) -> Any:
    return Superblock.parse(image[1024:2048])


def with_fields(image: bytes, **values: int) -> bytes:
    """The image with some fields of the superblock changed."""
    changed = bytearray(image)
    widths = {"magic": 2, "inode_size": 2, "reserved_gdt_blocks": 2, "def_hash_version": 1, "state": 2}
    for field, value in values.items():
        at, width = 1024 + SUPERBLOCK_OFFSETS[field], widths.get(field, 4)
        changed[at : at + width] = value.to_bytes(width, "little")
    return bytes(changed)


def on_volume(image: bytes, main: Callable[[Volume], Awaitable[T]]) -> tuple[T, bytes]:
    """What `main` gives over a volume, and the image afterwards."""
    with DiskMachine(len(image) // SECTOR_SIZE) as machine:
        machine.load(image)
        return machine.run(main), machine.image()


def mounted(image: bytes, **options: Any) -> tuple[tuple[bool, FileSystemError | None], bytes]:
    """Whether it is read-only and what creating a file raises; it is unmounted then."""

    async def main(volume: Volume) -> tuple[bool, FileSystemError | None]:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH + 1000, **options)
        refused = None
        try:
            await files.create(files.root, b"new", 0o600)
        except FileSystemError as error:
            refused = error
        await files.unmount()
        return files.read_only, refused

    return on_volume(image, main)


NAMES = {Incompatible.BITS_64: "64bit"}


@pytest.mark.parametrize("feature", [feature for feature in Incompatible if feature not in (2, 4)])
def test_an_unknown_incompatible_feature_is_refused_by_name(feature: Incompatible) -> None:
    image = with_fields(STAGE.image(), feature_incompat=2 | feature)
    with pytest.raises(CorruptFileSystem, match=rf"feature {NAMES.get(feature, feature.name).lower()}, which this library"):
        mounted(image)


def test_several_unknown_features_and_nameless_ones_are_all_told() -> None:
    with pytest.raises(CorruptFileSystem, match="features extents, flex_bg, 0x80000000, which"):
        mounted(with_fields(STAGE.image(), feature_incompat=0x8000_0242))


def test_an_ext4_is_refused() -> None:
    image = judges.make_ext3(8 * MIB, "-t", "ext4", features="extent,64bit,flex_bg,metadata_csum")
    with pytest.raises(CorruptFileSystem, match="extents, 64bit, flex_bg"):
        mounted(image)


@pytest.mark.parametrize("feature", [feature for feature in ReadOnlyCompatible if feature > 4])
def test_with_an_unknown_read_only_feature_it_can_be_read(feature: ReadOnlyCompatible) -> None:
    image = with_fields(STAGE.image(), feature_ro_compat=3 | feature)
    (read_only, refused), after = mounted(image)
    assert read_only
    assert refused is not None
    assert refused.errno is Errno.EROFS
    assert after == image


def test_mounted_read_only_nothing_is_written() -> None:
    (read_only, refused), after = mounted(STAGE.image(), read_only=True)
    assert read_only
    assert refused is not None
    assert after == STAGE.image()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"magic": 0xEF52}, "magic number"),
        ({"rev_level": 2}, "revision 2"),
        ({"log_block_size": 3}, "block size is 1024 << 3"),
        ({"log_block_size": 0xFFFF_FFFF}, "block size"),
        ({"log_frag_size": 1}, "fragment size"),
        ({"first_data_block": 0}, "first data block"),
        ({"blocks_per_group": 8200}, "blocks per group is 8200"),
        ({"blocks_per_group": 0}, "blocks per group is 0"),
        ({"blocks_per_group": 1023}, "blocks per group"),
        ({"inodes_per_group": 0}, "inodes per group is 0"),
        ({"inodes_per_group": 8200}, "inodes per group"),
        ({"inodes_count": 5}, "number of inodes is 5"),
        ({"inode_size": 0}, "inode size"),
        ({"inode_size": 192}, "inode size is 192"),
        ({"inode_size": 2048}, "inode size"),
        ({"first_ino": 3}, "first inode is 3"),
        ({"first_ino": 90_000}, "first inode"),
        ({"blocks_count": 4}, "number of blocks is 4"),
        ({"blocks_count": 8193}, "the volume has only"),
        ({"blocks_count": 0xFFFF_FFFF}, "the volume has only"),
        ({"r_blocks_count": 9000}, "reserved blocks"),
        ({"reserved_gdt_blocks": 300}, "reserved descriptor blocks"),
        ({"journal_inum": 0}, "another device"),
        ({"journal_inum": 5}, "journal inode is 5"),
        ({"journal_inum": 12}, "the journal"),
        ({"def_hash_version": 6}, "hash function"),
        ({"last_orphan": 9}, "list of orphans"),
    ],
)
def test_a_superblock_that_makes_no_sense_is_refused(fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(CorruptFileSystem, match=sentence) as refused:
        mounted(with_fields(STAGE.image(), **fields))
    assert refused.value.what.endswith(".")


def test_a_volume_that_is_too_small_or_empty_is_refused() -> None:
    for image in (bytes(1024), bytes(2048), bytes(8 * MIB)):
        with pytest.raises(CorruptFileSystem):
            mounted(image)


@pytest.mark.parametrize(("at", "sentence"), [(0, "puts its metadata"), (4, "puts its metadata"), (8, "puts its metadata")])
@pytest.mark.parametrize("value", [0, 2, 8191, 9000, 0xFFFF_FFFF])
def test_a_group_descriptor_that_leads_outside_its_group_is_refused(at: int, sentence: str, value: int) -> None:
    image = bytearray(STAGE.image())
    image[2048 + at : 2048 + at + 4] = value.to_bytes(4, "little")
    if at < 8 and value == 8191:
        return  # inside the group
    with pytest.raises(CorruptFileSystem, match=sentence):
        mounted(bytes(image))


@pytest.mark.parametrize(("at", "other"), [(4, 0), (0, 8), (4, 8)])
def test_a_group_descriptor_with_two_things_in_one_place_is_refused(at: int, other: int) -> None:
    image = bytearray(STAGE.image())
    image[2048 + at : 2048 + at + 4] = image[2048 + other : 2048 + other + 4]
    with pytest.raises(CorruptFileSystem, match="in one place"):
        mounted(bytes(image))


def test_an_ext2_is_mounted_and_is_not_clean_until_it_is_unmounted() -> None:
    image = made(8 * MIB, journal_blocks=0)

    async def crash(volume: Volume) -> None:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH)
        await files.write(await files.create(files.root, b"f", 0o600), 0, b"x" * 5000)
        await files.sync()

    after = on_volume(image, crash)[1]
    assert not superblock_of(after).state & State.CLEAN
    (read_only, refused), after = mounted(image)
    assert not read_only
    assert refused is None
    assert superblock_of(after).state & State.CLEAN
    judges.assert_silent(after)


def test_what_is_mounted_is_marked_so_and_what_is_unmounted_is_not() -> None:
    async def crash(volume: Volume) -> None:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH)
        await files.create(files.root, b"f", 0o600)
        await files.sync()
        await files.create(files.root, b"lost", 0o600)

    image = on_volume(STAGE.image(), crash)[1]
    assert superblock_of(image).feature_incompat & Incompatible.RECOVER

    # Mounted only for reading it is recovered all the same, and then it is as if it had been unmounted.
    async def look(volume: Volume) -> list[bytes]:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, read_only=True)
        names = [entry.name for entry in await files.entries(files.root)]
        await files.unmount()
        return names

    names, image = on_volume(image, look)
    assert names == [b".", b"..", b"lost+found", b"f"]
    assert not superblock_of(image).feature_incompat & Incompatible.RECOVER
    judges.assert_silent(image)
    again = on_volume(image, look)[1]
    assert again == image


def test_frames_are_given_back() -> None:
    held_at = OWN_PAGE + offset_of(OwnPage, "held")

    async def main(volume: Volume) -> None:
        before = await volume.exo.read(held_at, 8)
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH)
        await files.write(await files.create(files.root, b"f", 0o600), 0, b"x" * 100_000)
        assert await volume.exo.read(held_at, 8) > before
        await files.unmount()
        assert await volume.exo.read(held_at, 8) == before
        with pytest.raises(CorruptFileSystem):
            await Ext3.mount(Volume(volume.exo, 100, 1000), base=BASE)
        assert await volume.exo.read(held_at, 8) == before

    on_volume(STAGE.image(), main)


def test_frames_are_given_back_also_if_the_unmounting_fails() -> None:
    held_at = OWN_PAGE + offset_of(OwnPage, "held")

    async def main(volume: Volume) -> None:
        before = await volume.exo.read(held_at, 8)
        exo = Failing(0)
        exo.sector = None
        files = await Ext3.mount(Volume(exo, 0, volume.sectors), base=BASE, epoch=EPOCH)
        await files.write(await files.create(files.root, b"f", 0o600), 0, b"x")
        journal = files._mounted.journal
        assert isinstance(journal, Journal)
        exo.sector = journal._log.places[journal._head] * 2
        with pytest.raises(FileSystemError) as refused:
            await files.unmount()
        assert refused.value.errno is Errno.EIO
        assert files.read_only
        assert await volume.exo.read(held_at, 8) == before

    image = on_volume(STAGE.image(), main)[1]
    assert superblock_of(image).state & State.ERRORS


def test_a_file_cannot_have_blocks_of_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "image"
    (tmp_path / "f").write_bytes(b"x" * 5000)
    path.write_bytes(judges.make_ext3(8 * MIB, source=tmp_path))
    place = int(judges.debugfs(path, ["bmap <8> 20"]).split()[-1])
    judges.debugfs(path, [f"sif f block[1] {place}"], write=True)

    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"f")
        with pytest.raises(CorruptFileSystem, match="no file can have"):
            await session.files.write(number, 1024, b"y")

    STAGE.but(judged=False).run(main, path.read_bytes())


@pytest.mark.parametrize("change", ["write", "unlink a child"])
def test_counts_of_an_inode_that_cannot_be_are_an_error(tmp_path: Path, change: str) -> None:
    path = tmp_path / "image"
    path.write_bytes(STAGE.image())
    commands = ["write /dev/null f", "sif f blocks 0xFFFFFFFF", "mkdir d", "mkdir d/e", "sif d links_count 2"]
    judges.debugfs(path, commands, write=True)

    async def main(session: Session) -> None:
        files = session.files
        attempt: Callable[[], Awaitable[object]]
        if change == "write":
            attempt = partial(files.write, await files.lookup(files.root, b"f"), 0, b"x")
        else:
            attempt = partial(files.remove_directory, await files.lookup(files.root, b"d"), b"e")
        with pytest.raises(CorruptFileSystem, match="cannot be"):
            await attempt()
        assert files.read_only

    STAGE.but(judged=False).run(main, path.read_bytes())


def test_a_file_whose_end_lies_in_metadata_is_not_cut_off_there(tmp_path: Path) -> None:
    path = tmp_path / "image"
    (tmp_path / "f").write_bytes(b"x" * 5000)
    path.write_bytes(judges.make_ext3(8 * MIB, source=tmp_path))
    judges.debugfs(path, ["sif f block[1] 1"], write=True)

    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"f")
        with pytest.raises(CorruptFileSystem, match="no file can have"):
            await session.files.set_size(number, 1500)

    STAGE.but(judged=False, mode="journal").run(main, path.read_bytes())


@pytest.mark.parametrize("pointer", [3, 40, 200, 8192, 0xFFFF_FFFF])
def test_a_wild_block_number_ends_changes_and_not_reading(tmp_path: Path, pointer: int) -> None:
    path = tmp_path / "image"
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "wild").write_bytes(b"x" * 5000)
    path.write_bytes(judges.make_ext3(8 * MIB, source=tmp_path / "source"))
    judges.debugfs(path, [f"sif wild block[1] {pointer}"], write=True)
    image = path.read_bytes()

    async def main(session: Session) -> None:
        files = session.files
        good = await files.create(files.root, b"good", 0o600)
        await files.write(good, 0, b"committed")
        await files.sync()
        await files.create(files.root, b"never", 0o600)
        wild = await files.lookup(files.root, b"wild")
        with pytest.raises(CorruptFileSystem, match="no file can have"):
            await files.write(wild, 1024, b"y")
        assert files.read_only
        assert await files.read(good, 0, 100) == b"committed"
        with pytest.raises(FileSystemError) as refused:
            await files.write(good, 0, b"x")
        assert refused.value.errno is Errno.EROFS

    after = STAGE.but(judged=False).run_and_keep(main, image)[1]
    assert superblock_of(after).state & State.ERRORS

    async def look(session: Session) -> list[bytes]:
        names = [entry.name for entry in await session.files.entries(session.files.root)]
        with pytest.raises(CorruptFileSystem):
            await session.files.unlink(session.files.root, b"wild")
        return names

    names = STAGE.but(judged=False).run(look, after)
    assert b"good" in names
    assert b"never" not in names


@pytest.mark.parametrize("level", [12, 13, 14])
def test_a_wild_number_in_the_way_to_a_block_is_an_error(tmp_path: Path, level: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(STAGE.image())
    name = {12: "IND", 13: "DIND", 14: "TIND"}[level]
    judges.debugfs(path, ["write /dev/null f", f"sif f block[{name}] 3", "sif f size 9000000000"], write=True)

    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"f")
        places = {12: 20, 13: 300, 14: 70_000}
        with pytest.raises(CorruptFileSystem, match="no file can have"):
            await session.files.read(number, places[level] * 1024, 10)

    STAGE.but(judged=False).run(main, path.read_bytes())


def test_geometry_tells_what_dumpe2fs_tells() -> None:
    for stage in (STAGE, OnDisk(block_size=4096, size=32 * MIB, inode_size=128), OnDisk(block_size=2048, size=80 * MIB)):
        image = stage.image()
        facts = judges.dumpe2fs(image)
        geometry = decode(image[1024:2048], len(image))
        assert geometry.block_size == int(facts["Block size"])
        assert geometry.blocks == int(facts["Block count"])
        assert geometry.inodes == int(facts["Inode count"])
        assert geometry.inode_size == int(facts["Inode size"])
        assert geometry.inode_table_blocks == int(facts["Inode blocks per group"])
        assert geometry.reserved_descriptor_blocks == int(facts["Reserved GDT blocks"])
        with pytest.raises(CorruptFileSystem, match="has only"):
            decode(image[1024:2048], len(image) - 1)


@pytest.mark.parametrize("entry", [0, 7])
def test_a_wild_number_in_a_block_of_numbers_is_an_error(tmp_path: Path, entry: int) -> None:
    (tmp_path / "f").write_bytes(b"x" * 20_000)
    image = bytearray(judges.make_ext3(8 * MIB, source=tmp_path))
    told = judges.debugfs(image, ["stat f"])
    block = int(told.partition("(IND):")[2].partition(",")[0])
    image[block * 1024 + 4 * entry : block * 1024 + 4 * entry + 4] = (0xFFFF_0000).to_bytes(4, "little")

    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"f")
        assert await session.files.read(number, 5 * 1024, 10) == b"x" * 10
        with pytest.raises(CorruptFileSystem, match="no file can have"):
            await session.files.read(number, 12 * 1024, 10)

    STAGE.but(judged=False).run(main, bytes(image))


def test_a_file_system_that_was_given_up_does_not_claim_to_have_synced(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 5000)
    path = tmp_path / "image"
    path.write_bytes(judges.make_ext3(8 * MIB, source=tmp_path))
    judges.debugfs(path, ["sif f block[1] 40"], write=True)

    async def main(session: Session) -> None:
        files = session.files
        number = await files.lookup(files.root, b"f")
        with pytest.raises(CorruptFileSystem):
            await files.set_size(number, 0)
        for attempt in (files.sync(), files.fsync(number), files.fdatasync(number)):
            with pytest.raises(FileSystemError) as refused:
                await attempt
            assert refused.value.errno is Errno.EIO

    STAGE.but(judged=False).run(main, path.read_bytes())


def test_sizes_that_no_file_can_have_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(STAGE.image())
    commands = ["write /dev/null f", "sif f size 0x7000000000000000", "mkdir d", "sif d size 0x40000000"]
    judges.debugfs(path, commands, write=True)

    async def main(session: Session) -> None:
        for name in (b"f", b"d"):
            number = await session.files.lookup(session.files.root, name)
            with pytest.raises(CorruptFileSystem, match="none can have"):
                await session.files.attributes(number)

    STAGE.but(judged=False).run(main, path.read_bytes())
