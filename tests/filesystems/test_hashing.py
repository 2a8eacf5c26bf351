"""The hashes of directories are those of e2fsprogs, for every name, algorithm and seed."""

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libos.filesystems.ext3 import hashing
from libos.filesystems.ext3.hashing import major_and_minor
from libos.filesystems.ext3.layout import HashVersion
from tests.filesystems import judges
from tests.filesystems.long import LONG

ANSWER = re.compile(r"is 0x([0-9a-f]+) \(minor 0x([0-9a-f]+)\)")
BYTES = bytes(set(range(1, 256)) - set(b"\r\n"))
PLAIN = bytes.maketrans(b"\r\n", b"xy")
BYTE = st.sampled_from(BYTES)
NAMES = st.one_of(
    st.lists(BYTE, min_size=1, max_size=40).map(bytes),
    st.lists(BYTE, min_size=200, max_size=255).map(bytes),
    st.builds(bytes.__mul__, BYTE.map(lambda byte: bytes([byte])), st.integers(1, 255)),
)
SEEDS = st.one_of(st.just(bytes(16)), st.binary(min_size=16, max_size=16))


def judged(version: int, seed: bytes, names: list[bytes]) -> list[tuple[int, int]]:
    """What debugfs says of each name."""
    text = seed.hex()
    groups = "-".join(text[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
    quoted = [name.decode("utf-8", "surrogateescape").replace('"', '""') for name in names]
    said = judges.debugfs(b"", [f'dx_hash -h {version} -s {groups} -- "{name}"' for name in quoted])
    return [(int(major, 16), int(minor, 16)) for major, minor in ANSWER.findall(said)]


@pytest.mark.parametrize("version", HashVersion, ids=lambda version: version.name)
def test_a_hash_is_the_one_e2fsprogs_computes(version: HashVersion) -> None:
    @settings(
        max_examples=400 if LONG else 40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=not LONG
    )
    @given(st.lists(NAMES, min_size=1, max_size=30), SEEDS)
    def agree(names: list[bytes], seed: bytes) -> None:
        whole = major_and_minor(version, seed)
        assert [whole(name) for name in names] == judged(version, seed, names)

    agree()


def test_names_of_every_length_hash_as_in_e2fsprogs() -> None:
    names = [bytes((0x61 + length) % 0xFF + 1 for _ in range(length)) for length in range(1, 256)]
    names = [name.translate(PLAIN) for name in names]
    for version in HashVersion:
        whole = major_and_minor(version, b"exactly 16 bytes")
        assert [whole(name) for name in names] == judged(version, b"exactly 16 bytes", names)


def test_bytes_above_127_are_what_tells_signed_from_unsigned() -> None:
    for version in (HashVersion.LEGACY, HashVersion.HALF_MD4, HashVersion.TEA):
        signed, unsigned = (hashing.hashing(kind, bytes(16)) for kind in (version, version + 3))
        assert signed(b"plain") == unsigned(b"plain")
        assert signed(b"pl\xe4in") != unsigned(b"pl\xe4in")


def test_no_name_has_the_hash_that_stands_for_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_legacy", lambda name, signed: 0xFFFFFFFF)
    assert hashing.hashing(HashVersion.LEGACY, bytes(16))(b"any") == 0xFFFFFFFC
