"""The start block in C is the start block in Python."""

import subprocess

from hypothesis import given
from hypothesis import strategies as st

from exokernel.abi.pages import offset_of
from libos.startup import NAMES_SIZE, Region, RegionKind, RegionRow, StartBlock, StartPage
from tests.libos.host import compiler, include


def test_every_field_lies_in_c_where_it_lies_in_python() -> None:
    claims = ["#include <stddef.h>", "#include <startup.h>"]
    for name, structure in (("start_block", StartPage), ("start_region", RegionRow)):
        body = getattr(structure, "subcon", structure) if name == "start_block" else structure
        for part in body.subcons:
            where = offset_of(structure, part.name)
            size = part.sizeof()
            claims.append(f'_Static_assert(offsetof(struct {name}, {part.name}) == {where}, "{part.name}");')
            claims.append(f'_Static_assert(sizeof(((struct {name} *)0)->{part.name}) == {size}, "{part.name}");')
    checked = subprocess.run(
        [compiler(), "-std=c11", "-fsyntax-only", "-I", str(include()), "-x", "c", "-"],
        input="\n".join(claims),
        text=True,
        capture_output=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr


def test_the_header_can_be_read_by_the_assembler() -> None:
    text = "#include <startup.h>\n.quad START_ENTRY, START_STACK_TOP, START_ARGUMENTS\n"
    command = [compiler(), "-c", "-I", str(include()), "-x", "assembler-with-cpp", "-", "-o", "/dev/null"]
    assert subprocess.run(command, input=text, text=True, check=False).returncode == 0


regions = st.builds(
    Region,
    va=st.integers(1, 1 << 40),
    pages=st.integers(1, 1 << 20),
    kind=st.sampled_from(RegionKind),
    rights=st.integers(0, 7),
    first_page=st.integers(0, 1 << 20),
    size=st.integers(0, 1 << 40),
    name=st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
)


@given(rows=st.lists(regions, max_size=12), entry=st.integers(0, 1 << 47))
def test_what_is_packed_is_what_a_library_reads(rows: list[Region], entry: int) -> None:
    page = StartPage.parse(StartBlock(entry, entry + 16, 0, tuple(rows)).packed())
    assert (page.entry, page.stack_top, page.region_count) == (entry, entry + 16, len(rows))
    for row, region in zip(page.regions, rows, strict=False):
        assert (row.va, row.pages, row.kind, row.rights) == (region.va, region.pages, region.kind, region.rights)
        name = page.names[row.name : page.names.index(b"\0", row.name)]
        assert name.decode() == region.name
    assert len(page.names) == NAMES_SIZE
