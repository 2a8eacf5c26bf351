"""The contract is one table: what is derived from it agrees with it, and with a C compiler."""

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from exokernel.abi import header, layout, pages, reference
from exokernel.abi.downcalls import BY_NAME, TABLE, Exo, Kind
from exokernel.abi.errors import Error
from exokernel.abi.upcalls import UPCALLS, Upcall
from exokernel.kernel import calls, dispatch
from libos import interface


def test_every_row_of_the_table_has_a_function_and_no_function_is_without_a_row() -> None:
    assert calls.complete()
    assert dispatch.CALLS.keys() == TABLE.keys()


def test_the_function_behind_a_row_takes_the_arguments_of_the_row() -> None:
    for number, call in dispatch.CALLS.items():
        parameters = list(inspect.signature(call.function).parameters)[3:]
        assert len(parameters) == len(TABLE[number].arguments), call.row.name


def test_a_down_call_from_machine_code_fits_into_six_registers() -> None:
    for row in TABLE.values():
        assert sum(argument.registers for argument in row.arguments) <= 6, row.name


def test_every_error_of_a_row_is_an_error_and_every_error_belongs_to_a_row() -> None:
    used = {error for row in TABLE.values() for error in row.errors}
    of_the_dispatcher = {Error.NO_SUCH_CALL, Error.BAD_ARGUMENT, Error.ONLY_PYTHON}
    assert used | of_the_dispatcher == set(Error)
    assert sorted(error.value for error in Error) == list(range(1, len(Error) + 1))


def test_the_stub_of_a_row_is_a_coroutine_function_of_the_handle() -> None:
    for name in BY_NAME:
        method = getattr(Exo, name, None) or getattr(Exo, f"{name}_")
        assert method.downcall is BY_NAME[name]
        assert (method.__doc__ or "").strip()


def test_an_up_call_has_one_row_and_at_most_six_arguments() -> None:
    assert [entry.upcall for entry in UPCALLS] == list(Upcall)
    assert all(len(entry.arguments) <= 6 for entry in UPCALLS)


def test_the_address_map_has_no_overlaps() -> None:
    places = [
        layout.USER_BEGIN, layout.USER_END, layout.OWN_PAGE, layout.DISK_QUEUE, layout.ENVIRONMENT_TABLE,
        layout.FRAME_TABLE, layout.PAGE_TABLES, layout.SUPERVISOR,
    ]  # fmt: skip
    assert places == sorted(places)
    assert layout.EXPOSED == layout.USER_END
    table = layout.MAXIMUM_ENVIRONMENTS * pages.EnvironmentRow.sizeof()
    assert layout.ENVIRONMENT_TABLE + table <= layout.FRAME_TABLE
    assert layout.FRAME_TABLE + layout.MAXIMUM_MEMORY // layout.PAGE_SIZE * 8 <= layout.PAGE_TABLES


def test_the_manual_and_the_header_know_every_down_call() -> None:
    manual, text = reference.as_markdown(), header.c_header()
    for row in TABLE.values():
        assert f"### `{row.name}(" in manual
        assert (f"exo_{row.name}(" in text) is not row.python_only
    assert all(f"`{error.name}`" in manual for error in Error)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_c_compiler_lays_out_the_pages_as_construct_does(tmp_path: Path) -> None:
    (tmp_path / "exo.h").write_text(header.c_header())
    (tmp_path / "libos.h").write_text(interface.c_header())
    structures = {
        "exo_machine_page": pages.MachinePage, "exo_own_page": pages.OwnPage, "exo_taken": pages.TakenRecord,
        "exo_environment_row": pages.EnvironmentRow, "exo_disk_queue_row": pages.DiskQueueRow,
    }  # fmt: skip
    lines = ['#include "exo.h"', '#include "libos.h"']
    for name, structure in structures.items():
        body = structure if hasattr(structure, "subcons") else structure.subcon
        lines += [
            f'_Static_assert(offsetof(struct {name}, {field.name}) == {pages.offset_of(structure, field.name)}, "");'
            for field in body.subcons
        ]
    lines += [f'_Static_assert({-error} == EXO_{error.name}, "");' for error in Error]
    source = tmp_path / "layout.c"
    source.write_text("\n".join([*lines, "int nothing;", ""]))
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-c", str(source), "-o", str(tmp_path / "layout.o")]
    subprocess.run(command, check=True)


def test_the_stub_library_has_every_function_under_its_number() -> None:
    text = interface.stub_assembly()
    for function in interface.FUNCTIONS:
        body = re.search(rf"^{function.name}:\n(.*?)ret$", text, re.M | re.S)
        assert body is not None
        assert f"${function.call_number:#x}" in body[1]
        assert len(function.parameters) <= 6


def test_only_calls_with_a_python_object_are_closed_to_machine_code() -> None:
    for row in TABLE.values():
        assert row.python_only == any(argument.kind is Kind.OBJECT for argument in row.arguments)
