"""Lists a directory of the mounted file system with everything below: listing [DIRECTORY [FILE]].

A line has permissions, size in bytes and path; that of a symbolic link also its target.  With FILE the list is written
there, synced, and not shown.
"""

from collections.abc import Sequence

from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import FileSystemError, Kind
from libos.python_programs import LinkedExo

_LETTERS = {Kind.DIRECTORY: "d", Kind.SYMLINK: "l", Kind.FILE: "-"}


async def main(exo: LinkedExo, arguments: Sequence[str]) -> int:
    """Print or write the list; status 2 for wrong arguments, 1 if the file system refuses."""
    if len(arguments) > 2:
        await exo.console_write(b"listing: there is a directory, a file, and no more.\n")
        return 2
    try:
        text = b"".join(await _lines(exo, arguments[0].encode() if arguments else b"/"))
        if len(arguments) < 2:
            await exo.console_write(text)
        else:
            await _store(exo, arguments[1], text)
    except FileSystemError as error:
        await exo.console_write(f"listing: {error}.\n".encode())
        return 1
    return 0


async def _lines(exo: LinkedExo, path: bytes) -> list[bytes]:
    """The lines of what is at a path and below, by name."""
    try:
        it = await exo.os_stat(path, follow=False)
        target = b" -> " + await exo.os_read_link(path) if it.kind is Kind.SYMLINK else b""
    except FileSystemError as error:
        raise FileSystemError(error.errno, path.decode("utf-8", "replace")) from None
    size = 0 if it.kind is Kind.DIRECTORY else it.size
    lines = [f"{_LETTERS.get(it.kind, '?')}{it.mode:04o} {size:9} ".encode() + path + target + b"\n"]
    if it.kind is Kind.DIRECTORY:
        directory = await exo.os_open(path, OpenFlags.READ | OpenFlags.DIRECTORY)
        names = sorted(entry.name for entry in await exo.os_list(directory))
        await exo.os_close(directory)
        for name in names:
            if name not in (b".", b".."):
                lines += await _lines(exo, path.rstrip(b"/") + b"/" + name)
    await exo.charge(len(lines))
    return lines


async def _store(exo: LinkedExo, path: str, text: bytes) -> None:
    file = await exo.os_open(path, OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.TRUNCATE)
    await exo.os_write_file(file, text)
    await exo.os_sync(file)
    await exo.os_close(file)
