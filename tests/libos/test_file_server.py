"""The file server among clients that lie, die and come all at once."""

import random
from typing import Any

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event, Sharing
from exokernel.abi.layout import FRAME_TABLE, PAGE_SIZE
from exokernel.abi.pages import FRAME_HOLDER_MASK
from libos.files.clients import Clients
from libos.files.protocol import DATA, DATA_SIZE, HANDLES, PLACE_SHIFT, WINDOW_PAGES, Operation, Whence
from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import Errno, FileSystemError
from libos.filesystems.paths import Tree
from tests.libos.file_clients import READ_WRITE, WINDOW, Raw, Slow, World

NEW = int(OpenFlags.READ_WRITE | OpenFlags.CREATE)
CONTENTS = DATA << PLACE_SHIFT
LAST = WINDOW_PAGES * PAGE_SIZE - 4


async def with_file(client: Raw, contents: bytes = b"contents", path: bytes = b"/file") -> int:
    """A window and a file that is open and has been written."""
    if not client.frames:
        await client.attach()
    handle = await client.open(path, NEW)
    assert await client.write(handle, contents) == len(contents)
    return handle


# Windows.


def test_only_a_frame_of_the_caller_s_own_becomes_part_of_a_window() -> None:
    world = World()

    async def bystander(client: Raw) -> None:
        await with_file(client, b"secret", b"/secret")
        await client.exo.block(Event.TIME, 0, await client.exo.time() + 50_000_000)

    async def main(exo: Exo, client: Raw) -> dict[int, int]:
        other = await world.spawn(exo, bystander)
        await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
        await client.attach()
        own = (await exo.read(FRAME_TABLE + 8 * client.frames[0], 8))[:4]
        answers = {}
        for frame in range(1024):
            word = int.from_bytes(await exo.read(FRAME_TABLE + 8 * frame, 8), "little")
            if word & FRAME_HOLDER_MASK != int.from_bytes(own, "little"):
                answers[frame] = await client.call(Operation.ATTACH, 3, frame)
        assert {world.server, other} <= {
            int.from_bytes((await exo.read(FRAME_TABLE + 8 * frame, 8))[:4], "little") for frame in answers
        }
        for lie in (1 << 32, (1 << 64) - 1, 0xFFFF_FFFF, 1024, 1 << 40):
            answers[-lie] = await client.call(Operation.ATTACH, 3, lie)
        return answers

    assert set(world.run(main).values()) == {-Errno.EFAULT}


def test_a_frame_that_is_not_lent_or_has_two_holders_is_refused() -> None:
    world = World()

    async def main(exo: Exo, client: Raw) -> list[int]:
        await client.attach()
        frame = await exo.alloc_page()
        answers = [await client.call(Operation.ATTACH, 2, frame)]
        await exo.share_page(frame, world.server, Sharing.LOAN, 1)
        answers.append(await client.call(Operation.ATTACH, 2, frame))
        await exo.share_page(frame, world.server, Sharing.LOAN, READ_WRITE)
        child = await exo.create_environment()
        await exo.share_page(frame, child, Sharing.HOLD, READ_WRITE)
        answers.append(await client.call(Operation.ATTACH, 2, frame))
        await exo.destroy(child)
        answers.append(await client.call(Operation.ATTACH, WINDOW_PAGES, frame))
        answers.append(await client.call(Operation.ATTACH, 2, frame))
        return answers

    assert world.run(main) == [-Errno.EFAULT] * 3 + [-Errno.EINVAL, 0]


def test_a_frame_that_changes_hands_while_it_is_mapped_is_refused() -> None:
    """The server looks once more behind the mapping: a frame that another processor has freed may be its own by then."""

    class Hands(Exo):
        def __init__(self) -> None:
            self.removed: list[int] = []
            self.looks = 0

        async def read(self, va: int, size: int) -> bytes:
            return b"".join(word.to_bytes(4, "little") for word in (9, 2, 1))

        async def read_if_mapped(self, va: int, size: int) -> bytes:
            self.looks += 1
            return ((9 if self.looks % 2 else 8) | 1 << 32).to_bytes(8, "little")

        async def create_mapping(self, va: int, frame: int, rights: int, env: int = 0) -> int:
            return 0

        async def remove_mapping(self, va: int, env: int = 0) -> int:
            self.removed.append(va)
            return 0

    exo = Hands()
    clients = Clients(exo)
    attaching = clients.attach(9, 1, 77)
    with pytest.raises(FileSystemError) as refusal:
        attaching.send(None)
    assert refusal.value.errno is Errno.EFAULT
    assert len(exo.removed) == 1
    assert not clients.of(9).attached


def test_a_window_that_goes_is_an_error_of_the_client_s_and_moves_no_position() -> None:
    world = World()

    async def main(exo: Exo, client: Raw) -> list[Any]:
        handle = await with_file(client)
        await client.call(Operation.SEEK, handle, 0, Whence.START)
        await exo.unshare_page(client.frames[1], world.server)
        answers: list[Any] = [await client.read(handle), await client.write(handle, b"x"), await client.open(b"/file")]
        answers.append(await client.call(Operation.SEEK, handle, 0, Whence.HERE))
        answers.append(await client.call(Operation.READ, handle, 4))
        answers.append(await exo.read(WINDOW, 4))
        await exo.share_page(client.frames[1], world.server, Sharing.LOAN, READ_WRITE)
        answers.append(await client.call(Operation.ATTACH, 1, client.frames[1]))
        return [*answers, await client.read(handle)]

    gone = -Errno.EFAULT
    assert world.run(main) == [gone, gone, gone, 0, 4, b"cont", 0, b"ents"]


def test_a_frame_that_is_given_away_is_no_window_any_more() -> None:
    world = World()

    async def main(exo: Exo, client: Raw) -> tuple[int, bytes]:
        handle = await with_file(client, b"x" * PAGE_SIZE)
        await client.call(Operation.SEEK, handle, 0, Whence.START)
        await exo.dealloc_page(client.frames[1])
        taken = await exo.alloc_page(client.frames[1])
        await exo.create_mapping(WINDOW + DATA, taken, READ_WRITE)
        answer = await client.call(Operation.READ, handle, 16 | CONTENTS)
        return answer, await exo.read(WINDOW + DATA, 16)

    assert world.run(main) == (-Errno.EFAULT, bytes(16))


def test_without_a_window_there_is_only_an_error() -> None:
    async def main(exo: Exo, client: Raw) -> set[int]:
        return {await client.call(operation, 0, 0, 0) for operation in Operation if operation > Operation.INHERIT}

    assert World().run(main) == {-Errno.EFAULT}


# Words.


@pytest.mark.parametrize("seed", range(8))
def test_whatever_the_words_are_the_answer_is_a_number_and_others_keep_their_files(seed: int) -> None:
    chance = random.Random(seed)
    likely = (0, 1, 2, 3, 7, 8, 64, 4095, 4096, DATA_SIZE, DATA_SIZE + 1, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)
    world = World()

    def word() -> int:
        how = chance.random()
        if how < 0.2:
            return 8 | CONTENTS
        if how < 0.8:
            return chance.choice(likely) + chance.choice((0, 0, 0, CONTENTS, 3 << PLACE_SHIFT)) & (1 << 64) - 1
        return chance.getrandbits(64)

    async def liar(client: Raw) -> int:
        await with_file(client, b"lies", b"/lies")
        for round in range(400):
            if round % 20 == 0:
                path = chance.choice((b"/lies", b"/dir/none", b"/dir", b"../..", b"\0\0", b"/other", b"////", bytes(20)))
                await client.exo.write(WINDOW + DATA, path * chance.choice((1, 1, 2, 300)))
            operation = chance.choice((*range(2, 22), chance.getrandbits(64)))
            answer = await client.call(operation, word(), word(), word())
            assert answer >= 0 or -answer in set(Errno)
        return 1

    async def main(exo: Exo, client: Raw) -> Any:
        handle = await with_file(client, b"mine", b"/mine")
        await client.path(Operation.MAKE_DIRECTORY, b"/dir", words=(0o755,))
        number = await world.spawn(exo, liar)
        await exo.block(Event.EXIT, number)
        assert world.results == {number: 1}
        await client.call(Operation.SEEK, handle, 0, Whence.START)
        return await client.read(handle), await client.call(Operation.FINISH, 0) if seed < 0 else 0

    assert world.run(main) == (b"mine", 0)


def test_words_that_make_no_sense_are_refused_with_a_reason() -> None:
    async def main(exo: Exo, client: Raw) -> dict[str, int]:
        handle = await with_file(client)
        await exo.write(WINDOW + DATA, b"/file\0rest")
        return {
            "a zero in a path": await client.call(Operation.OPEN, 10, 0, 0),
            "too long a path": await client.call(Operation.OPEN, 4096, 0, 0),
            "flags nobody knows": await client.call(Operation.OPEN, 5, 1 << 30, 0),
            "both and write": await client.call(Operation.OPEN, 5, 3, 0),
            "outside the window": await client.call(Operation.WRITE, handle, 8 | LAST << PLACE_SHIFT),
            "before the start": await client.call(Operation.SEEK, handle, (1 << 64) - 9, Whence.END),
            "too far": await client.call(Operation.SEEK, handle, (1 << 63) - 1, Whence.HERE),
            "too far to write": await client.call(Operation.WRITE_AT, handle, 8 | CONTENTS, (1 << 63) - 4),
            "from nowhere": await client.call(Operation.SEEK, handle, 0, 3),
            "too large": await client.call(Operation.TRUNCATE, handle, 1 << 63),
            "no operation": await client.call(99, 0),
            "nobody's handle": await client.call(Operation.CLOSE, handle + 1),
        }

    assert World().run(main) == {
        "a zero in a path": -Errno.EINVAL,
        "too long a path": -Errno.ENAMETOOLONG,
        "flags nobody knows": -Errno.EINVAL,
        "both and write": -Errno.EINVAL,
        "outside the window": -Errno.EFAULT,
        "before the start": -Errno.EINVAL,
        "too far": -Errno.EOVERFLOW,
        "too far to write": -Errno.EFBIG,
        "from nowhere": -Errno.EINVAL,
        "too large": -Errno.EFBIG,
        "no operation": -Errno.ENOSYS,
        "nobody's handle": -Errno.EBADF,
    }


def test_only_its_creator_ends_the_server() -> None:
    world = World()

    async def client(client: Raw) -> int:
        return await client.call(Operation.FINISH)

    async def main(exo: Exo, own: Raw) -> int:
        await exo.block(Event.EXIT, await world.spawn(exo, client))
        return await with_file(own)

    assert world.run(main) == 0
    assert list(world.results.values()) == [-Errno.EPERM]


# Handles.


def test_a_handle_is_its_client_s_alone_and_there_are_so_many() -> None:
    world = World()

    async def other(client: Raw) -> list[Any]:
        await client.attach()
        return [await client.read(handle, 1) for handle in range(3)]

    async def main(exo: Exo, client: Raw) -> list[int]:
        await with_file(client)
        await exo.block(Event.EXIT, await world.spawn(exo, other))
        return [await client.open(b"/file") for _ in range(HANDLES)]

    assert world.run(main) == [*range(1, HANDLES), -Errno.EMFILE]
    assert list(world.results.values()) == [[-Errno.EBADF] * 3]


def test_children_have_the_files_and_the_position_until_the_last_has_closed() -> None:
    world = World()

    async def child(client: Raw) -> list[Any]:
        await client.attach()
        answers = [await client.read(0, 3), await client.call(Operation.CLOSE, 0), await client.read(0, 1)]
        return [*answers, await client.open(b"/file")]

    async def main(exo: Exo, client: Raw) -> list[Any]:
        handle = await with_file(client)
        await client.call(Operation.SEEK, handle, 1, Whence.START)
        number = await exo.create_environment()
        answers: list[Any] = [await client.call(Operation.INHERIT, number), await client.call(Operation.INHERIT, number)]
        answers.append(await client.call(Operation.INHERIT, world.server))
        answers.append(await client.call(Operation.INHERIT, number + 1))

        async def run() -> None:
            world.results[number] = await child(Raw(Exo(), world.server))

        await exo.start_coroutine(number, run())
        await client.path(Operation.REMOVE, b"/file")
        await exo.block(Event.EXIT, number)
        return [*answers, await client.read(handle)]

    # The server is the caller's child too, and could have handles if it wanted any.
    answers = world.run(main)
    assert answers == [0, -Errno.EPERM, 0, -Errno.EPERM, b"ents"]
    assert list(world.results.values()) == [[b"ont", 0, -Errno.EBADF, -Errno.ENOENT]]


def test_nobody_gives_files_to_a_stranger() -> None:
    world = World()

    victims: list[int] = []

    async def stranger(client: Raw) -> int:
        await with_file(client, path=b"/stranger")
        return await client.call(Operation.INHERIT, victims[0])

    async def main(exo: Exo, client: Raw) -> int:
        victims.append(await exo.create_environment())
        first = await world.spawn(exo, stranger)
        await exo.block(Event.EXIT, first)
        await exo.destroy(victims[0])
        return first

    assert world.results[world.run(main)] == -Errno.EPERM


def test_a_child_has_one_name_and_takes_one_place() -> None:
    """A number beyond 32 bits names nobody, though its lower half names a child."""
    world = World()

    async def main(exo: Exo, client: Raw) -> list[int]:
        await with_file(client)
        child = await exo.create_environment()
        answers = [await client.call(Operation.INHERIT, child + (alias << 32)) for alias in (1, 2, 1 << 31)]
        return [*answers, await client.call(Operation.INHERIT, child)]

    assert world.run(main) == [-Errno.EPERM] * 3 + [0]


async def _users(world: World, path: bytes) -> int:
    files: Any = world.files
    return int(files._inodes[(await Tree(files).stat(path)).inode].users)


def test_the_files_of_the_dead_are_closed_and_their_contents_go() -> None:
    world = World()

    async def client(client: Raw) -> int:
        await with_file(client, b"x" * 20000, b"/gone")
        await with_file(client, b"x", b"/stays")
        assert await client.path(Operation.REMOVE, b"/gone") == 0
        return 0

    async def main(exo: Exo, own: Raw) -> list[Any]:
        before = (await world.files.usage()).free_blocks
        await exo.block(Event.EXIT, await world.spawn(exo, client))
        between = (await world.files.usage()).free_blocks, await _users(world, b"/stays")
        await own.attach()
        return [between[0] < before - 4, between[1], before - (await world.files.usage()).free_blocks]

    assert world.run(main) == [True, 1, 1]


def test_they_are_closed_some_calls_later_also_if_nobody_new_comes() -> None:
    world = World()

    async def client(client: Raw) -> int:
        return await with_file(client, b"x", b"/stays")

    async def main(exo: Exo, own: Raw) -> list[int]:
        await own.attach()
        await exo.block(Event.EXIT, await world.spawn(exo, client))
        users = [await _users(world, b"/stays")]
        for _ in range(64):
            await own.call(Operation.CLOSE, 5)
        return [*users, await _users(world, b"/stays")]

    assert world.run(main) == [1, 0]


@pytest.mark.parametrize("destroyed_after", [50_000, 300_000, 900_000])
def test_a_client_that_dies_in_a_call_leaves_the_server_as_it_was(destroyed_after: int) -> None:
    files = Slow()
    world = World(files)

    async def client(client: Raw) -> None:
        handle = await with_file(client, b"x" * 9000)
        files.cycles = 400_000
        while True:
            await client.call(Operation.SEEK, handle, 0, Whence.START)
            await client.read(handle)
            await client.write(handle, b"y" * 100)

    async def main(exo: Exo, own: Raw) -> Any:
        await own.attach()
        number = await world.spawn(exo, client)
        while not files.cycles:
            await exo.block(Event.TIME, 0, await exo.time() + 10_000)
        await exo.block(Event.TIME, 0, await exo.time() + destroyed_after)
        await exo.destroy(number)
        handle = await own.open(b"/file")
        contents = await own.read(handle)
        await exo.block(Event.TIME, 0, await exo.time() + 2_000_000)
        for _ in range(64):
            await own.call(Operation.CLOSE, 5)
        assert await _users(world, b"/file") == 1
        return contents

    assert len(world.run(main)) >= 9000


def test_a_handle_closed_during_a_call_on_it_stays_until_the_call_has_ended() -> None:
    """Two contexts of one environment: the calls of a client are not in turns by nature."""
    files = Slow()
    world = World(files)

    async def main(exo: Exo, client: Raw) -> Any:
        handle = await with_file(client, b"x" * 5000)
        await client.call(Operation.SEEK, handle, 0, Whence.START)
        files.cycles = 500_000
        await exo.send(world.server, int(Operation.READ), handle, DATA_SIZE | CONTENTS)
        closed = await client.call(Operation.CLOSE, handle)
        removed = await client.path(Operation.REMOVE, b"/file")
        await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
        return closed, removed, (await exo.read(WINDOW + DATA, 5000)).count(b"x"), (await files.usage()).free_blocks

    blocks = Slow()._blocks
    assert world.run(main) == (0, 0, 5000, blocks)


# Many at once.


@pytest.mark.parametrize("cpus", [1, 3])
def test_callers_beyond_what_can_be_served_at_once_come_again_and_all_are_served(cpus: int) -> None:
    files = Slow()
    files.cycles = 200_000
    world = World(files, cpus=cpus)
    count = 40

    def writer(index: int) -> Any:
        async def client(client: Raw) -> Any:
            name = f"/file{index}".encode()
            handle = await with_file(client, name * 1000, name)
            await client.call(Operation.SEEK, handle, 0, Whence.START)
            return await client.read(handle) == name * 1000

        return client

    async def main(exo: Exo, client: Raw) -> bool:
        numbers = [await world.spawn(exo, writer(index)) for index in range(count)]
        for number in numbers:
            await exo.block(Event.EXIT, number)
        return all(world.results[number] for number in numbers)

    assert world.run(main)
    assert files.most_under_way > 8


def test_what_several_append_is_all_there() -> None:
    files = Slow()
    world = World(files)

    def writer(letter: bytes) -> Any:
        async def client(client: Raw) -> None:
            await client.attach()
            handle = await client.open(b"/log", int(OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.APPEND))
            files.cycles = 20_000
            for _ in range(20):
                assert await client.write(handle, letter * 50) == 50

        return client

    async def main(exo: Exo, client: Raw) -> bytes:
        numbers = [await world.spawn(exo, writer(letter)) for letter in (b"a", b"b", b"c", b"d")]
        for number in numbers:
            await exo.block(Event.EXIT, number)
        return await Tree(files).read_file(b"/log")

    log = world.run(main)
    records = [log[begin : begin + 50] for begin in range(0, len(log), 50)]
    assert sorted(records) == sorted(letter * 50 for letter in (b"a", b"b", b"c", b"d") for _ in range(20))


def test_one_position_is_moved_by_one_call_at_a_time() -> None:
    files = Slow()
    world = World(files)
    parts: list[bytes] = []

    async def reader(client: Raw) -> None:
        await client.attach()
        while part := await client.read(0, 10):
            assert isinstance(part, bytes)
            parts.append(part)

    async def main(exo: Exo, client: Raw) -> None:
        handle = await with_file(client, b"".join(b"%010d" % number for number in range(60)))
        await client.call(Operation.SEEK, handle, 0, Whence.START)
        files.cycles = 15_000
        children = []
        for _ in range(4):
            child = await exo.create_environment()
            assert await client.call(Operation.INHERIT, child) == 0

            async def run() -> None:
                await reader(Raw(Exo(), world.server))

            await exo.start_coroutine(child, run())
            children.append(child)
        for child in children:
            await exo.block(Event.EXIT, child)

    world.run(main)
    assert sorted(parts) == [b"%010d" % number for number in range(60)]


@pytest.mark.parametrize("cpus", [1, 2])
def test_the_server_does_not_end_before_it_has_unmounted_whatever_calls_end_meanwhile(cpus: int) -> None:
    class Unmounting(Slow):
        unmounted = False

        async def unmount(self) -> None:
            await self._wait()
            await super().unmount()
            self.unmounted = True

    files = Unmounting()
    world = World(files, cpus=cpus)

    async def pest(client: Raw) -> None:
        await client.attach()
        while True:
            try:
                await client.exo.send(world.server, int(Operation.CLOSE), 5)
            except Refused as refused:
                if refused.error is not Error.BUSY:
                    return
            await client.exo.block(Event.TIME, 0, await client.exo.time() + 20_000)

    async def main(exo: Exo, client: Raw) -> None:
        handle = await with_file(client, b"x" * 5000)
        await world.spawn(exo, pest)
        await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
        files.cycles = 200_000
        await exo.send(world.server, int(Operation.READ_AT), handle, DATA_SIZE | CONTENTS, 0)

    world.run(main)
    assert files.unmounted


def test_who_comes_after_the_end_is_told_that_nobody_is_there() -> None:
    world = World()

    async def late(client: Raw) -> str:
        await client.attach()
        await client.exo.block(Event.TIME, 0, await client.exo.time() + 5_000_000)
        try:
            return str(await client.open(b"/file"))
        except Refused as refused:
            return refused.error.name

    async def main(exo: Exo, client: Raw) -> int:
        number = await world.spawn(exo, late)
        await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
        return number

    world.run(main)
    assert set(world.results.values()) <= {"NO_SUCH_ENVIRONMENT", "CALLEE_ENDED"}


def test_what_cannot_be_mounted_is_said_to_who_waits_for_it() -> None:
    from libos.files.server import FileServer, start_server
    from libos.filesystems.interface import CorruptFileSystem, FileSystem

    async def mount(exo: Exo) -> FileSystem:
        raise CorruptFileSystem("This is no file system.")

    async def main(exo: Exo, client: Raw) -> str:
        environment = await exo.create_environment()
        with pytest.raises(FileSystemError) as error:
            await start_server(exo, environment, FileServer(1, mount))
        return str(error.value)

    assert World().run(main) == "This is no file system."
