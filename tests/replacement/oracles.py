"""The same algorithms once more, as plainly as possible and however slowly.

Each takes a trace and a number of frames and gives the pages evicted, in order.
"""

from collections.abc import Callable, Sequence
from itertools import combinations

from libos.replay import Trace


def second_chance(trace: Sequence[int], frames: int) -> list[int]:
    queue: list[int] = []
    used: set[int] = set()
    evicted = []
    for page in trace:
        if page not in queue:
            if len(queue) == frames:
                while queue[0] in used:
                    used.remove(queue[0])
                    queue.append(queue.pop(0))
                evicted.append(queue.pop(0))
            queue.append(page)
        used.add(page)
    return evicted


def clock(trace: Sequence[int], frames: int) -> list[int]:
    slots: list[int] = []
    used: list[bool] = []
    hand = 0
    evicted = []
    for page in trace:
        if page in slots:
            used[slots.index(page)] = True
        elif len(slots) < frames:
            slots.append(page)
            used.append(True)
        else:
            while used[hand]:
                used[hand] = False
                hand = (hand + 1) % frames
            evicted.append(slots[hand])
            slots[hand], used[hand] = page, True
            hand = (hand + 1) % frames
    return evicted


def _with_diaries(
    trace: Sequence[int], frames: int, every: int, choose: Callable[[list[int], dict[int, str]], int]
) -> list[int]:
    """Keep for each resident page a diary with a 1 or 0 for each interval, the latest first, and evict by it."""
    resident: list[int] = []
    diary: dict[int, str] = {}
    used: set[int] = set()
    evicted = []
    for index, page in enumerate(trace):
        if index > 0 and index % every == 0:
            for other in resident:
                diary[other] = ("1" if other in used else "0") + diary[other]
            used = set()
        if page not in resident:
            if len(resident) == frames:
                today = {other: ("1" if other in used else "0") + diary[other] for other in resident}
                victim = choose(resident, today)
                evicted.append(victim)
                resident.remove(victim)
                used.discard(victim)
            resident.append(page)
            diary[page] = ""
        used.add(page)
    return evicted


def ageing(trace: Sequence[int], frames: int, every: int, width: int = 8) -> list[int]:
    def choose(resident: list[int], diary: dict[int, str]) -> int:
        return min(resident, key=lambda page: diary[page].ljust(1 + width, "0")[: 1 + width])

    return _with_diaries(trace, frames, every, choose)


def mru(trace: Sequence[int], frames: int, every: int, spare: int = 0) -> list[int]:
    def choose(resident: list[int], diary: dict[int, str]) -> int:
        candidates = resident[: max(1, len(resident) - spare)]
        latest = max(diary[page].ljust(9, "0")[:9] for page in candidates)
        return [page for page in candidates if diary[page].ljust(9, "0")[:9] == latest][-1]

    return _with_diaries(trace, frames, every, choose)


def nfu(trace: Sequence[int], frames: int, every: int) -> list[int]:
    def choose(resident: list[int], diary: dict[int, str]) -> int:
        return min(resident, key=lambda page: diary[page].count("1"))

    return _with_diaries(trace, frames, every, choose)


def wsclock(trace: Trace, frames: int, window: int, writes: int) -> list[int]:
    circle: list[int] = []  # the hand points at the first
    last_use: dict[int, int] = {}
    used: set[int] = set()
    dirty: set[int] = set()
    evicted = []
    for now, (page, write) in enumerate(zip(trace.pages, trace.writes, strict=True)):
        if page not in circle:
            if len(circle) == frames:
                victim, cleaning = None, []
                for other in list(circle):
                    if other in used:
                        used.remove(other)
                        last_use[other] = now
                    elif now - last_use[other] > window:
                        if other not in dirty:
                            victim = other
                            break
                        cleaning.append(other)
                if victim is None:
                    clean = [other for other in circle if other not in dirty]
                    victim = min(clean or circle, key=lambda other: last_use[other])
                dirty -= set(cleaning[:writes])
                place = circle.index(victim)
                circle = circle[place + 1 :] + circle[:place]
                evicted.append(victim)
                used.discard(victim)
                dirty.discard(victim)
            circle.append(page)
        used.add(page)
        if write:
            dirty.add(page)
    return evicted


def lirs(
    trace: Sequence[int], frames: int, hir_ratio: float = 0.01, stack_limit: float | None = None
) -> tuple[list[int], int]:
    """Also the position of the first reference to a resident page that is in the queue but not in the stack."""
    most_lir = max(1, frames - max(1, int(frames * hir_ratio)))
    stack: list[int] = []  # the bottom is the first
    queue: list[int] = []
    lir: list[int] = []
    gone: list[int] = []
    evicted = []
    outside_stack = len(trace)

    def prune() -> None:
        while stack and stack[0] not in lir:
            if stack[0] in gone:
                gone.remove(stack[0])
            stack.pop(0)

    for index, page in enumerate(trace):
        hit = page in lir or page in queue
        if not hit and len(lir) + len(queue) == frames:
            victim = (queue or stack)[0]
            evicted.append(victim)
            if queue:
                queue.pop(0)
                if victim in stack:
                    gone.append(victim)
            else:
                stack.remove(victim)
                lir.remove(victim)
                prune()
        in_stack = page in stack
        if in_stack:
            stack.remove(page)
        if page in gone:
            gone.remove(page)
        stack.append(page)
        if page not in lir:
            if page in queue:
                queue.remove(page)
            if in_stack or (not hit and len(lir) < most_lir):
                lir.append(page)
            else:
                queue.append(page)
                if hit:
                    outside_stack = min(outside_stack, index)
        prune()
        if len(lir) > most_lir:
            bottom = stack.pop(0)
            lir.remove(bottom)
            queue.append(bottom)
            prune()
        while stack_limit is not None and gone and len(stack) > stack_limit * frames:
            stack.remove(gone.pop(0))
    return evicted, outside_stack


def s3_fifo(trace: Sequence[int], frames: int, small_size: int, ghost_size: int) -> list[int]:
    """As in the paper: every new page enters the small queue unless it is remembered."""
    small: list[int] = []
    main: list[int] = []
    ghost: list[int] = []
    uses: dict[int, int] = {}
    evicted = []
    for page in trace:
        if page in small or page in main:
            uses[page] = min(3, uses[page] + 1)
            continue
        remembered = page in ghost
        if remembered:
            ghost.remove(page)
        if len(small) + len(main) == frames:
            victim = None
            if len(small) >= small_size:
                while small and victim is None:
                    first = small.pop(0)
                    if uses[first] > 1:
                        main.append(first)
                        uses[first] = 0
                    else:
                        victim = first
                        ghost = [*ghost, first][-ghost_size:]
            while victim is None:
                first = main.pop(0)
                if uses[first] > 0:
                    uses[first] -= 1
                    main.append(first)
                else:
                    victim = first
            evicted.append(victim)
        (main if remembered else small).append(page)
        uses[page] = 0
    return evicted


def fewest_misses(trace: Sequence[int], frames: int) -> int:
    """By trying every choice of victim at every miss."""
    ways: dict[frozenset[int], int] = {frozenset(): 0}
    for page in trace:
        after: dict[frozenset[int], int] = {}
        for resident, misses in ways.items():
            if page in resident:
                outcomes = {resident: misses}
            else:
                keep = min(len(resident), frames - 1)
                outcomes = {frozenset(kept) | {page}: misses + 1 for kept in combinations(sorted(resident), keep)}
            for outcome, count in outcomes.items():
                after[outcome] = min(count, after.get(outcome, count))
        ways = after
    return min(ways.values())


def lru_misses_by_stack_distance(trace: Sequence[int], frames: int) -> int:
    """A reference misses if at least `frames` other pages were used since the last one to its page (Mattson 1970)."""
    stack: list[int] = []
    misses = 0
    for page in trace:
        if page not in stack or stack.index(page) >= frames:
            misses += 1
        if page in stack:
            stack.remove(page)
        stack.insert(0, page)
    return misses
