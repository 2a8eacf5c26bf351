"""What the documents say of files, addresses, structures and commands is true of the code."""

import re
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi import layout, pages
from exokernel.abi.downcalls import TABLE
from exokernel.abi.errors import Error
from exokernel.abi.upcalls import UPCALLS
from libos import plan
from tests.docs.blocks import ROOT, Shell, blocks

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAP = (ROOT / "docs" / "address-map.md").read_text(encoding="utf-8")
OF_THE_KERNEL = (
    *("SUPERVISOR", "PAGE_TABLES", "FRAME_TABLE", "ENVIRONMENT_TABLE", "SLICE_TABLE"),
    *("DISK_QUEUE", "OWN_PAGE", "EXPOSED"),
)
STRUCTURES = ("MachinePage", "OwnContext", "OwnPage", "TakenRecord", "PredicateTerm", "EnvironmentRow", "DiskQueueRow")
OF_THE_LIBRARIES = ("WINDOW", "MEMORY", "LIBRARY_STACK", "START_BLOCK")
_ADDRESS = re.compile(r"^ +0x([0-9A-F_]+) \+[-=]+\+(?: -+ (\w+))?")


def _named_addresses() -> dict[str, int]:
    """The names in the pictures with the address of the line that ends their box."""
    found: dict[str, int] = {}
    waiting: list[str] = []
    for block in blocks(MAP):
        for line in block.lines if block.language == "text" else ():
            if name := re.search(r"(?:R-|RW|--) +([A-Z_]{4,})\b", line):
                waiting.append(name[1])
            if address := _ADDRESS.match(line):
                value = int(address[1].replace("_", ""), 16)
                found |= dict.fromkeys(waiting, value)
                waiting = []
                if address[2] and address[2].isupper():
                    found[address[2]] = value
    return found


def test_the_pictures_of_the_address_space_have_the_constants_of_the_code() -> None:
    found = _named_addresses()
    for name in (*OF_THE_KERNEL, "USER_END", "USER_BEGIN"):
        assert found[name] == getattr(layout, name), name
    for name in (*OF_THE_LIBRARIES, "IMAGES", "LIBRARY_BASE", "APPLICATION_BASE"):
        assert found[name] == getattr(plan, name), name


def test_the_sizes_in_the_picture_of_the_libraries_memory_are_those_of_the_loader() -> None:
    assert f"MEMORY, {plan.MEMORY_PAGES} pages" in MAP
    assert f"nothing, {plan.STACK_GAP_PAGES} pages" in MAP
    assert plan.LIBRARY_STACK_PAGES == 2
    assert "0x0000_0001_0000_4000" in MAP


@pytest.mark.parametrize("name", STRUCTURES)
def test_the_tables_of_the_exposed_pages_are_their_declarations(name: str) -> None:
    structure: Any = getattr(pages, name)
    body = structure if hasattr(structure, "subcons") else structure.subcon
    rows = [(pages.offset_of(structure, field.name), field.name, field.sizeof()) for field in body.subcons]
    section = MAP.partition(f"### {name}\n")[2].partition("\n#")[0]
    shown = re.findall(r"^\| (0x[0-9a-f]+) \| `(\w+)` \| (\d+) \|$", section, re.MULTILINE)
    assert [(int(offset, 16), field, int(size)) for offset, field, size in shown] == rows


def test_the_table_of_up_calls_is_the_contract_s() -> None:
    shown = re.findall(r"^\| `(\w+)` \| (\d) \|(.*)\|$", MAP, re.MULTILINE)
    found = [(name, int(number), re.findall(r"`(\w+)`", arguments)) for name, number, arguments in shown]
    assert found == [(one.name, int(one.upcall), [name for name, _ in one.arguments]) for one in UPCALLS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_a_document_names_exists(document: Path) -> None:
    prose = "\n".join(re.split(r"^```[^`]*^```", document.read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"`((?:exokernel|libos|apps|tests|docs)/[\w./-]*)`", prose))
    missing = [name for name in named if not (ROOT / name).exists()]
    linked = re.findall(r"\]\(([^)#:]+)\)", prose)
    missing += [name for name in linked if not (document.parent / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_prose_is_wrapped_at_120_columns(document: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [line for line in prose.split("\n") if len(line) > 120 and not line.startswith("|")] == []


def test_every_document_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in DOCUMENTS[1:] if path.name != "README.md" and f"({path.name})" not in index] == []


def test_the_derived_reference_has_every_call_and_every_error(tmp_path: Path) -> None:
    reference = "\n".join(Shell(tmp_path).run("exo downcalls --markdown"))
    assert [row.name for row in TABLE.values() if f"### `{row.name}(" not in reference] == []
    assert [one.name for one in UPCALLS if f"### `{one.name}(" not in reference] == []
    assert [error.name for error in Error if f"`{error.name}`" not in reference] == []
