"""A bitmap as one number does what a list of bits would do."""

from hypothesis import given
from hypothesis import strategies as st

from libos.filesystems.ext3.bitmaps import Bitmap

SIZE = 12
"""Bytes of the block; the last of them lie behind what can be given away."""
LENGTH = 75


@st.composite
def bitmaps(draw: st.DrawFn) -> tuple[Bitmap, list[bool]]:
    """A bitmap, and which of its bits can be given away."""
    block = draw(st.binary(min_size=SIZE, max_size=SIZE))
    bitmap = Bitmap(block, LENGTH)
    assert bitmap.encode() == block
    free = [not block[bit // 8] >> bit % 8 & 1 for bit in range(LENGTH)]
    assert bitmap.clear_bits == sum(free)
    for bit in draw(st.lists(st.integers(0, LENGTH - 1), max_size=20)):
        if not free[bit] and bitmap.test(bit):
            bitmap.clear(bit, pending=draw(st.booleans()))
            free[bit] = not bitmap.pending >> bit & 1
    return bitmap, free


@given(pair=bitmaps(), start=st.integers(0, LENGTH - 1), most=st.integers(1, 40))
def test_what_is_found_can_be_given_away(pair: tuple[Bitmap, list[bool]], start: int, most: int) -> None:
    bitmap, free = pair
    behind = [bit for bit in range(start, LENGTH) if free[bit]]
    assert bitmap.find(start) == (behind[0] if behind else -1)
    run = next((at for at in range(start, start + most) if at >= LENGTH or not free[at]), start + most) - start
    assert bitmap.run(start, most) == run
    eights = [bit for bit in range(LENGTH - 7) if all(free[bit : bit + 8])]
    room = bitmap.find_room(start)
    if eights:
        later = [bit for bit in eights if bit >= start]
        assert room == (later[0] if later else eights[0])
    elif any(free):
        assert room == (behind[0] if behind else free.index(True))
    else:
        assert room == -1


@given(pair=bitmaps(), start=st.integers(0, LENGTH - 1), count=st.integers(1, 20))
def test_bits_that_are_set_are_set_and_no_others(pair: tuple[Bitmap, list[bool]], start: int, count: int) -> None:
    bitmap, _ = pair
    count = min(count, LENGTH - start)
    before = [bitmap.test(bit) for bit in range(LENGTH)]
    assert bitmap.any_clear(start, count) == (not all(before[start : start + count]))
    bitmap.set(start, count)
    assert [bitmap.test(bit) for bit in range(LENGTH)] == before[:start] + [True] * count + before[start + count :]
    bitmap.clear(start, count)
    assert bitmap.clear_bits >= count
