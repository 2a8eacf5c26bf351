"""The loader believes nothing of an image that it has not checked, and says in a sentence what it refuses."""

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.abi.layout import USER_END
from exokernel.build import guests
from libos.image import Image, LoadError, parse
from libos.plan import IMAGES, LIBRARY_BASE, link
from tests.libos.elves import BASE, DYNAMIC, EXECUTE, INTERP, READ, TLS, WRITE, Elf, Segment, dynamic, relocation

TEXT = Segment(BASE + 0x1000, b"\xc3", READ | EXECUTE)


def dynamic_elf(*rows: tuple[int, int], extra: bytes = b"") -> bytes:
    """A program with a dynamic section at BASE + 0x2000 in a writable segment, and `extra` bytes at BASE + 0x2800."""
    table = dynamic(*rows).ljust(0x800, b"\0") + extra.ljust(0x100, b"\0")
    header = Segment(BASE + 0x2000, kind=DYNAMIC, stored=0x800, size=0x800)
    return Elf([TEXT, Segment(BASE + 0x2000, table, READ | WRITE), header]).build()


AT_EXTRA = BASE + 0x2800
RELA = [(7, AT_EXTRA), (8, 24), (5, AT_EXTRA + 0x80), (6, AT_EXTRA + 0x40)]

BROKEN: dict[str, tuple[bytes, str]] = {
    "no ELF file": (b"#!/bin/sh\n", "is not an ELF image"),
    "an empty file": (b"", "is not an ELF image"),
    "half a header": (Elf().build()[:40], "ends in the middle of the ELF header"),
    "32 bits": (Elf(kind=b"\x01\x01\x01").build(), "is not a 64-bit little-endian image"),
    "big-endian": (Elf(kind=b"\x02\x02\x01").build(), "is not a 64-bit little-endian image"),
    "ARM": (Elf(machine=183).build(), "is for another processor"),
    "an object file": (Elf(type=1).build(), "is neither a program nor a shared object"),
    "nothing to load": (Elf([Segment(BASE, kind=DYNAMIC)], 0).build(), "has nothing to load"),
    "no program headers": (Elf(count=0).build(), "says it has 0 program headers"),
    "odd program headers": (Elf(header_size=32).build(), "program headers of 32 bytes"),
    "too many program headers": (Elf(count=60000).build(), "says it has 60000 program headers"),
    "a cut-off segment": (Elf([Segment(BASE, b"x", stored=1 << 40, size=1 << 41)], 0).build(), "it ends before its"),
    "more stored than there is": (Elf([Segment(BASE, b"xyz", size=2)], 0).build(), "more bytes in the file than in"),
    "overlap": (Elf([TEXT, Segment(BASE + 0x1000, b"y", READ | EXECUTE)]).build(), "overlap"),
    "text and data on a page": (Elf([TEXT, Segment(BASE + 0x1800, b"y", READ | WRITE)]).build(), "on one page"),
    "the kernel's half": (Elf([TEXT, Segment(USER_END, size=4096)]).build(), "outside the memory a program can have"),
    "a segment that wraps": (Elf([TEXT, Segment((1 << 64) - 4096, size=8192)]).build(), "outside the memory"),
    "page 0": (Elf([TEXT, Segment(0, size=4096)]).build(), "outside the memory a program can have"),
    "a gigantic segment": (Elf([TEXT, Segment(1 << 32, size=1 << 40)]).build(), "outside the memory"),
    "writable text": (Elf([Segment(BASE + 0x1000, b"\xc3", 7)]).build(), "writable and executable"),
    "odd alignment": (Elf([Segment(BASE + 0x1000, b"\xc3", 5, offset=0x10)]).build(), "does not lie on pages"),
    "an entry in data": (Elf([TEXT, Segment(BASE + 0x2000, b"y", READ)], BASE + 0x2000).build(), "its entry"),
    "an interpreter": (Elf([TEXT, Segment(BASE, kind=INTERP)]).build(), "asks for a dynamic linker"),
    "thread-local data": (Elf([TEXT, Segment(BASE, kind=TLS)]).build(), "thread-local"),
    "text relocations": (dynamic_elf((22, 0)), "change its own text"),
    "text relocations by flag": (dynamic_elf((30, 4)), "change its own text"),
    "REL relocations": (dynamic_elf((17, AT_EXTRA)), "of a form"),
    "a copy relocation": (dynamic_elf(*RELA, extra=relocation(AT_EXTRA, 5)), "R_X86_64_COPY"),
    "an indirect function": (dynamic_elf(*RELA, extra=relocation(AT_EXTRA, 37)), "R_X86_64_IRELATIVE"),
    "a relocation unheard of": (dynamic_elf(*RELA, extra=relocation(AT_EXTRA, 999)), "type 999"),
    "a relocation in text": (dynamic_elf(*RELA, extra=relocation(BASE + 0x1000, 8)), "outside its writable data"),
    "a relocation nowhere": (dynamic_elf(*RELA, extra=relocation((1 << 64) - 4, 8)), "outside its writable data"),
    "endless relocations": (dynamic_elf((7, AT_EXTRA), (8, 1 << 60)), "lies outside its segments"),
    "a symbol far away": (dynamic_elf(*RELA, extra=relocation(AT_EXTRA, 6, 1 << 31)), "lies outside its segments"),
    "a name far away": (dynamic_elf((1, 1 << 40), (5, AT_EXTRA)), "lies outside its segments"),
    "endless symbols": (dynamic_elf((4, AT_EXTRA), (6, AT_EXTRA), extra=b"\1\0\0\0\xff\xff\xff\xff"), "lies outside"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_image_is_refused_with_a_sentence_that_names_it(case: str) -> None:
    data, words = BROKEN[case]
    with pytest.raises(LoadError) as refused:
        parse("prog", data)
    message = str(refused.value)
    assert message.startswith("prog ")
    assert words in message
    assert message.endswith(".")
    assert "; " in message, "it says what to do"


def test_a_sound_image_is_taken_apart() -> None:
    image = parse("prog", Elf().build())
    assert image.entry == BASE + 0x1000
    assert not image.movable
    assert [(s.va, s.contents, s.writable) for s in image.segments] == [(BASE + 0x1000, b"\xc3", False)]


@cache
def _images() -> tuple[bytes, ...]:
    hello = guests.build_application(guests.applications()["hello"].path)
    return tuple(path.read_bytes() for path in (hello, guests.build_native_base(), guests.build_stub()))


def test_section_headers_are_not_looked_at() -> None:
    for data in _images():
        damaged = data[:40] + b"\xff" * 8 + data[48:58] + b"\xff" * 6 + data[64:]
        assert parse("prog", damaged).relocations == parse("prog", data).relocations
        assert parse("prog", damaged).exports == parse("prog", data).exports


def loaded_or_refused(data: bytes) -> Image | None:
    """The image, or None if it is refused as it should be: with a sentence that names it."""
    try:
        return parse("prog", data)
    except LoadError as error:
        message = str(error)
    assert message.startswith("prog ")
    assert message.endswith(".")
    return None


@given(which=st.integers(0, 2), length=st.integers(0, 30_000))
def test_a_truncated_image_is_refused_or_whole_as_far_as_it_is_loaded(which: int, length: int) -> None:
    data = _images()[which]
    image = loaded_or_refused(data[:length])
    assert image is None or image.segments == parse("prog", data).segments


changes = st.lists(st.tuples(st.one_of(st.integers(0, 700), st.integers(0, 30_000)), st.integers(0, 255)), max_size=12)


@given(which=st.integers(0, 2), changes=changes)
def test_a_damaged_image_is_refused_in_words_or_loads_within_bounds(which: int, changes: list[tuple[int, int]]) -> None:
    data = bytearray(_images()[which])
    for place, byte in changes:
        data[place % len(data)] = byte
    image = loaded_or_refused(bytes(data))
    if image is None:
        return
    for segment in image.segments:
        assert 0 <= segment.va < segment.va + segment.size <= USER_END
        assert len(segment.contents) <= segment.size
        assert segment.rights & 6 != 6
    for relocation_ in image.relocations:
        assert any(s.writable and s.va <= relocation_.offset <= s.va + s.size - 8 for s in image.segments)


def test_an_undefined_symbol_is_named_with_who_needs_it() -> None:
    hello, base, _ = _images()
    with pytest.raises(LoadError, match=r"libos needs pager_\w+, which none of prog, libos defines; name a library OS"):
        link(parse("prog", hello), [parse("libos", base)], lambda _: IMAGES)
    with pytest.raises(LoadError, match=r"prog needs os_\w+, which none of prog defines"):
        link(parse("prog", hello), [], lambda _: IMAGES)


def test_the_application_s_words_point_at_the_library_that_was_given() -> None:
    hello, _, stub = (parse("prog", data) for data in _images())
    linked = link(hello, [stub], lambda _: IMAGES)
    for relocation_ in hello.relocations:
        page = linked.private[relocation_.offset & -4096]
        word = int.from_bytes(page[relocation_.offset % 4096 :][:8], "little")
        assert word == IMAGES + stub.exports[relocation_.symbol] >= LIBRARY_BASE
