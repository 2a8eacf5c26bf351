"""Extended attributes that others have set: read, kept, and given back with the inode."""

from pathlib import Path

import pytest

from libos.filesystems.ext3.layout import Superblock
from libos.filesystems.interface import CorruptFileSystem
from tests.filesystems import judges
from tests.filesystems.stages import OnDisk, Session

MIB = 1 << 20
LONG = "v" * 700
"""Too long for any inode."""
EXPECTED = {b"user.colour": b"red", b"user.long": LONG.encode(), b"trusted.note": b"a note", b"security.label": b"x"}


def attributed(tmp_path: Path, stage: OnDisk, name: str = "f") -> bytes:
    """An image with a file that has attributes, in its inode and in a block."""
    (tmp_path / "long").write_text(LONG)
    path = tmp_path / "image"
    path.write_bytes(stage.image())
    commands = [f"write /dev/null {name}", f"ea_set -f {tmp_path}/long {name} user.long"]
    commands += [
        f"ea_set {name} user.colour red",
        f'ea_set {name} trusted.note "a note"',
        f"ea_set {name} security.label x",
    ]
    judges.debugfs(path, commands, write=True)
    judges.assert_silent(path)
    return path.read_bytes()


STAGES = [
    OnDisk(size=8 * MIB, inode_size=inode, block_size=block) for inode, block in ((128, 1024), (256, 1024), (256, 4096))
]


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_attributes_are_read_and_survive_what_is_done_to_the_file(stage: OnDisk, tmp_path: Path) -> None:
    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"f")
        assert await session.files.extended_attributes(number) == EXPECTED
        await session.files.write(number, 0, b"contents" * 10_000)
        await session.files.set_attributes(number, mode=0o600, uid=3, modified=77)
        await session.files.set_size(number, 3)
        await session.files.rename(session.files.root, b"f", session.files.root, b"g")
        await session.files.link(number, session.files.root, b"h")
        await session.files.unlink(session.files.root, b"g")
        await session.remount()
        assert await session.files.extended_attributes(number) == EXPECTED

    after = stage.run_and_keep(main, attributed(tmp_path, stage))[1]
    said = judges.debugfs(after, ["ea_list h"])
    for name, value in EXPECTED.items():
        assert f"{name.decode()} ({len(value)})" in said


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_the_block_of_attributes_goes_with_the_inode(stage: OnDisk, tmp_path: Path) -> None:
    empty = Superblock.parse(stage.image()[1024:2048])

    async def main(session: Session) -> None:
        assert (await session.files.usage()).free_blocks < empty.free_blocks_count
        await session.files.unlink(session.files.root, b"f")

    after = Superblock.parse(stage.run_and_keep(main, attributed(tmp_path, stage))[1][1024:2048])
    assert after.free_blocks_count == empty.free_blocks_count
    assert after.free_inodes_count == empty.free_inodes_count


def test_a_block_of_attributes_that_inodes_share_is_freed_with_the_last(tmp_path: Path) -> None:
    stage = STAGES[0]
    path = tmp_path / "image"
    path.write_bytes(attributed(tmp_path, stage))
    said = judges.debugfs(path, ["stat f"])
    block = int(said.partition("File ACL: ")[2].split()[0])
    judges.debugfs(path, ["write /dev/null twin", f"sif twin file_acl {block}", "sif twin blocks 2"], write=True)
    image = bytearray(path.read_bytes())
    image[block * 1024 + 4] = 2
    judges.assert_silent(image)

    async def drop_one(session: Session) -> None:
        await session.files.unlink(session.files.root, b"f")
        twin = await session.files.lookup(session.files.root, b"twin")
        assert await session.files.extended_attributes(twin) == EXPECTED

    async def drop_other(session: Session) -> None:
        await session.files.unlink(session.files.root, b"twin")

    once = stage.run_and_keep(drop_one, bytes(image))[1]
    assert once[block * 1024 + 4] == 1
    twice = stage.run_and_keep(drop_other, once)[1]
    assert (
        Superblock.parse(twice[1024:2048]).free_blocks_count == Superblock.parse(stage.image()[1024:2048]).free_blocks_count
    )


def test_a_fast_symbolic_link_with_a_block_of_attributes_is_still_one(tmp_path: Path) -> None:
    stage = STAGES[0]
    (tmp_path / "long").write_text(LONG)
    path = tmp_path / "image"
    path.write_bytes(stage.image())
    judges.debugfs(path, ["symlink l target", f"ea_set -f {tmp_path}/long l user.long"], write=True)
    judges.assert_silent(path)

    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"l")
        assert await session.files.read_link(number) == b"target"
        assert await session.files.extended_attributes(number) == {b"user.long": LONG.encode()}
        await session.files.unlink(session.files.root, b"l")

    after = stage.run_and_keep(main, path.read_bytes())[1]
    assert (
        Superblock.parse(after[1024:2048]).free_blocks_count == Superblock.parse(stage.image()[1024:2048]).free_blocks_count
    )


@pytest.mark.parametrize(("at", "value"), [(3, 0), (8, 2), (34, 0xFF), (35, 0xFF), (41, 0x7F), (4, 0)])
def test_attributes_that_make_no_sense_are_an_error(tmp_path: Path, at: int, value: int) -> None:
    stage = STAGES[0].but(judged=False)
    image = bytearray(attributed(tmp_path, stage))
    block = int(judges.debugfs(image, ["stat f"]).partition("File ACL: ")[2].split()[0])
    image[block * 1024 + at] = value

    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"f")
        with pytest.raises(CorruptFileSystem):
            await session.files.extended_attributes(number)

    stage.run(main, bytes(image))
