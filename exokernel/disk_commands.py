"""`exo disk`: disk images with partitions."""

from pathlib import Path
from typing import Annotated, Any

import typer

from exokernel.command_line import AsJson, fail, print_json, sentences
from exokernel.names import size_in_bytes

disk = typer.Typer(help="Make disk images with partitions, and show what they have.", no_args_is_help=True)


@disk.command()
def new(
    image: Annotated[Path, typer.Argument(help="The image file to make.", metavar="IMAGE")],
    size: Annotated[str, typer.Option(help="Its size, such as 128M.")],
    partition: Annotated[
        list[str] | None, typer.Option(help="A partition as LABEL:SIZE, repeatable; the last one may leave out :SIZE.")
    ] = None,
) -> None:
    """Make a disk image with a GUID partition table."""
    from exokernel.images import ImageError, check_size
    from exokernel.partitioning import create_image

    with sentences():
        try:
            total = size_in_bytes(size, "image")
            check_size(total, "An image")
            partitions = [_partition(text) for text in partition or []]
        except (ValueError, ImageError) as error:
            fail(error)
        if image.exists():
            fail(f"{image} exists already; name another, or remove it.")
        create_image(image, total, partitions)


def _partition(text: str) -> tuple[str, int]:
    """`root:64M`, or `root` for all that is left, as a label and a size in bytes.  Raises ValueError."""
    label, colon, size = text.rpartition(":")
    if not colon:
        return text, 0
    length = size_in_bytes(size, f"partition {label}")
    if not length:
        raise ValueError(f"The partition {label} has no size; write one, such as {label}:64M, or leave out :{size}.")
    return label, length


@disk.command()
def info(image: Annotated[Path, typer.Argument(help="The image file.", metavar="IMAGE")], as_json: AsJson = False) -> None:
    """Show the partitions of a disk image, and who may use them."""
    from exokernel.images import ImageError, described

    with sentences():
        try:
            found = described(image)
        except ImageError as error:
            fail(error)
    if as_json:
        print_json(found)
    else:
        _show(image, found)


def _show(image: Path, found: dict[str, Any]) -> None:
    from exokernel.observe.report import partition_table

    partitions = found["partitions"]
    words = "partition" if len(partitions) == 1 else "partitions"
    typer.echo(f"{image}: {found['bytes']:,} bytes, {found['bytes'] // 512:,} sectors, " + (
        f"{len(partitions)} {words}, disk {found['disk']}" if found["disk"] else "no partition table"
    ))  # fmt: skip
    if found["damaged"]:
        typer.echo("The table at the beginning is damaged; this is the backup at the end.")
    if partitions:
        partition_table(partitions)
