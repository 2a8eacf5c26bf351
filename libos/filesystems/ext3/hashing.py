"""The hashes by which a directory finds a name: legacy, half MD4 and TEA, each with signed and unsigned bytes.

Half MD4 is the first three rounds of MD4 (Rivest, The MD4 Message Digest Algorithm, RFC 1186) on half of its words; TEA is
the Tiny Encryption Algorithm (Wheeler and Needham, 1994) with the name as the key and the state as the text.  Both begin
with a seed of the file system, so that nobody can choose names that collide without knowing it.  The legacy hash has none.
The idea of an index by hash is Phillips, A Directory Index for Ext2 (Ottawa Linux Symposium, 2002).

What makes a byte signed: the hashes were first written with C's `char`, which some machines see as signed.  The superblock
says which kind made the file system.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final

from libos.filesystems.ext3.layout import HashVersion

_WORD: Final = 0xFFFFFFFF
_SIGN: Final = 0x80000000
_INITIAL: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_SEED: Final = struct.Struct("<4I")
_EIGHT_WORDS: Final = struct.Struct(">8I")
_FOUR_WORDS: Final = struct.Struct(">4I")

_LEGACY_FIRST: Final = 0x12A3FE2D
_LEGACY_SECOND: Final = 0x37ABE8F9
_LEGACY_FACTOR: Final = 7152373
_LEGACY_MODULUS: Final = 0x7FFFFFFF

_SQUARE_ROOT_OF_2: Final = 0x5A827999
_SQUARE_ROOT_OF_3: Final = 0x6ED9EBA1
_GOLDEN_RATIO: Final = 0x9E3779B9
_TEA_ROUNDS: Final = 16

_EVEN: Final = 0xFFFFFFFE
_END: Final = 0xFFFFFFFE
"""The hash that stands for the end of a directory where a position in it is a hash; no name has it."""

Hash = Callable[[bytes], int]


def hashing(version: int, seed: bytes) -> Hash:
    """The function from a name to its hash, an even number of 32 bits.

    `version` is one of HashVersion, `seed` the 16 bytes of the superblock; zeros stand for the algorithms' own.
    """
    whole = major_and_minor(version, seed)
    return lambda name: whole(name)[0]


def major_and_minor(version: int, seed: bytes) -> Callable[[bytes], tuple[int, int]]:
    """As `hashing`, with the second word as well, which orders names of one hash and is 0 for the legacy hash."""
    words = _SEED.unpack(seed)
    state = words if any(words) else _INITIAL
    signed = version <= HashVersion.TEA
    kind = HashVersion(version if signed else version - HashVersion.LEGACY_UNSIGNED)

    def whole(name: bytes) -> tuple[int, int]:
        if kind is HashVersion.HALF_MD4:
            major, minor = _half_md4(name, signed, state)
        elif kind is HashVersion.TEA:
            major, minor = _tea(name, signed, state)
        else:
            major, minor = _legacy(name, signed), 0
        major &= _EVEN
        return (_END - 2 if major == _END else major), minor

    return whole


def _legacy(name: bytes, signed: bool) -> int:
    last, before = _LEGACY_FIRST, _LEGACY_SECOND
    for byte in name:
        if signed and byte > 0x7F:
            byte -= 0x100
        new = (before + (last ^ (byte * _LEGACY_FACTOR & _WORD))) & _WORD
        if new & _SIGN:
            new -= _LEGACY_MODULUS
        last, before = new, last
    return last << 1 & _WORD


def _words(name: bytes, start: int, form: struct.Struct, signed: bool) -> Sequence[int]:
    """The words of a name from byte `start` on, as many as `form` has, the first byte of each on top; what the name does
    not fill is padded with its remaining length, and so is a word that it fills in part, from above."""
    rest = len(name) - start
    piece = name[start : start + form.size]
    whole = len(piece) & -4
    padding = bytes([rest])
    if not signed or piece.isascii():
        if whole < len(piece):
            piece = piece[:whole] + piece[whole:].rjust(4, padding)
        return form.unpack(piece.ljust(form.size, padding))
    words = []
    for at in range(0, form.size, 4):
        word = rest * 0x01010101
        for byte in piece[at : at + 4]:
            word = (byte - 0x100 if byte > 0x7F else byte) + (word << 8) & _WORD
        words.append(word)
    return words


def _half_md4(name: bytes, signed: bool, state: tuple[int, ...]) -> tuple[int, int]:
    a, b, c, d = state
    for start in range(0, len(name), 32):
        words = _words(name, start, _EIGHT_WORDS, signed)
        first, second, third, fourth = a, b, c, d
        for at, shift in _ROUND_1:
            a = a + (d ^ (b & (c ^ d))) + words[at] & _WORD
            a, b, c, d = d, (a << shift | a >> 32 - shift) & _WORD, b, c
        for at, shift in _ROUND_2:
            a = a + ((b & c) + ((b ^ c) & d)) + words[at] + _SQUARE_ROOT_OF_2 & _WORD
            a, b, c, d = d, (a << shift | a >> 32 - shift) & _WORD, b, c
        for at, shift in _ROUND_3:
            a = a + (b ^ c ^ d) + words[at] + _SQUARE_ROOT_OF_3 & _WORD
            a, b, c, d = d, (a << shift | a >> 32 - shift) & _WORD, b, c
        a, b, c, d = a + first & _WORD, b + second & _WORD, c + third & _WORD, d + fourth & _WORD
    return b, c


_ROUND_1: Final = tuple(zip(range(8), (3, 7, 11, 19) * 2, strict=True))
_ROUND_2: Final = tuple(zip((1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13) * 2, strict=True))
_ROUND_3: Final = tuple(zip((3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15) * 2, strict=True))
"""For each of the eight steps of a round: which word is added, and how far is rotated."""


def _tea(name: bytes, signed: bool, state: tuple[int, ...]) -> tuple[int, int]:
    first, second = state[0], state[1]
    for start in range(0, len(name), 16):
        a, b, c, d = _words(name, start, _FOUR_WORDS, signed)
        x, y, total = first, second, 0
        for _ in range(_TEA_ROUNDS):
            total = total + _GOLDEN_RATIO & _WORD
            x = x + ((y << 4) + a ^ y + total ^ (y >> 5) + b) & _WORD
            y = y + ((x << 4) + c ^ x + total ^ (x >> 5) + d) & _WORD
        first, second = first + x & _WORD, second + y & _WORD
    return first, second
