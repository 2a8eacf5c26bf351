"""The functions of apps/support that compilers call and programs use, against Python's own."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from exokernel.build.guests import SUPPORT
from libos import interface

from .oracles import random_at

STANDARD = ("memcpy", "memmove", "memset", "memcmp", "strlen", "strcmp")


@pytest.fixture(scope="module")
def support(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """support.c as a library of the host, its functions renamed so that they are not taken for the host's own."""
    compiler, directory = shutil.which("cc"), tmp_path_factory.mktemp("support")
    if compiler is None:
        pytest.skip("there is no C compiler for the host")
    (directory / "libos.h").write_text(interface.c_header())
    renamed = [f"-D{name}=guest_{name}" for name in STANDARD]
    flags = ["-O2", "-std=c11", "-ffreestanding", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *renamed]
    sources = [str(SUPPORT / "support.c"), str(Path(__file__).with_name("host_libos.c"))]
    library = directory / "support.so"
    subprocess.run([compiler, *flags, "-I", str(directory), "-I", str(SUPPORT), *sources, "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@given(before=st.binary(max_size=9), data=st.binary(max_size=200), after=st.binary(max_size=9))
def test_memcpy_copies_its_bytes_and_no_others(support: ctypes.CDLL, before: bytes, data: bytes, after: bytes) -> None:
    target = ctypes.create_string_buffer(before + bytes(len(data)) + after)
    support.guest_memcpy(ctypes.byref(target, len(before)), data, ctypes.c_size_t(len(data)))
    assert target.raw[:-1] == before + data + after


@given(to=st.integers(0, 20), source=st.integers(0, 20), size=st.integers(0, 20))
def test_memmove_may_overlap(support: ctypes.CDLL, to: int, source: int, size: int) -> None:
    data = bytes(range(1, 41))
    memory, expected = ctypes.create_string_buffer(data), bytearray(data)
    expected[to : to + size] = data[source : source + size]
    support.guest_memmove(ctypes.byref(memory, to), ctypes.byref(memory, source), ctypes.c_size_t(size))
    assert memory.raw[:-1] == expected


@given(size=st.integers(0, 100), begin=st.integers(0, 20), byte=st.integers(-300, 300))
def test_memset_sets_its_bytes_and_no_others(support: ctypes.CDLL, size: int, begin: int, byte: int) -> None:
    memory = ctypes.create_string_buffer(b"x" * 200)
    support.guest_memset(ctypes.byref(memory, begin), byte, ctypes.c_size_t(size))
    assert memory.raw[:-1] == b"x" * begin + bytes([byte & 255]) * size + b"x" * (200 - begin - size)


@given(left=st.binary(max_size=40), right=st.binary(max_size=40), common=st.binary(max_size=40))
def test_memcmp_orders_bytes_as_python_does(support: ctypes.CDLL, left: bytes, right: bytes, common: bytes) -> None:
    size = len(common) + min(len(left), len(right))
    a, b = (common + left)[:size], (common + right)[:size]
    result = support.guest_memcmp(a, b, ctypes.c_size_t(size))
    assert (result > 0) - (result < 0) == (a > b) - (a < b)


@given(left=st.binary(max_size=40), right=st.binary(max_size=40), common=st.binary(max_size=40))
def test_strcmp_and_strlen_end_at_the_null(support: ctypes.CDLL, left: bytes, right: bytes, common: bytes) -> None:
    a, b = (ctypes.create_string_buffer(common + end) for end in (left, right))
    result = support.guest_strcmp(a, b)
    assert (result > 0) - (result < 0) == (a.value > b.value) - (a.value < b.value)
    assert support.guest_strlen(a) == len(a.value)


@example(text=":")
@example(text="/")
@example(text="")
@given(text=st.text("0123456789:/+-x ", max_size=22) | st.integers(0, 1 << 66).map(str))
def test_a_number_is_decimal_digits_that_fit_64_bits(support: ctypes.CDLL, text: str) -> None:
    number = ctypes.c_uint64(77)
    support.parse_number.restype = ctypes.c_bool
    accepted = support.parse_number(text.encode(), ctypes.byref(number))
    assert accepted == (text.isdecimal() and int(text) < 1 << 64)
    assert number.value == (int(text) if accepted else 77)


@given(seed=st.integers(0, (1 << 64) - 1), place=st.integers(0, 50))
def test_chance_is_splitmix64_at_any_place_and_step_by_step(support: ctypes.CDLL, seed: int, place: int) -> None:
    support.random_at.restype = support.random_next.restype = ctypes.c_uint64
    assert support.random_at(ctypes.c_uint64(seed), ctypes.c_uint64(place)) == random_at(seed, place)
    state = ctypes.c_uint64(seed)
    walked = [support.random_next(ctypes.byref(state)) for _ in range(place + 1)]
    assert walked[-1] == random_at(seed, place)


def test_the_sequence_of_seed_zero_is_the_published_one() -> None:
    assert [random_at(0, place) for place in range(3)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
