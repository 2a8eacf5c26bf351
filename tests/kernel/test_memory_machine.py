"""Any sequence of memory down-calls by any environments leaves the machine in the state a simple model says.

Actors are environments whose coroutine makes one down-call at a time, as Hypothesis says. The model knows holds, loans,
access lists, key rings and mappings as sets, and nothing of tables, counters or TLBs. After every step the page tables
are walked (`audit`) and compared with it.
"""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from exokernel.abi import pages
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, Event, PageBits, Rights, Sharing, Subject, Taken
from exokernel.abi.layout import PAGE_SIZE, USER_END
from tests.kernel.audit import USER_SLOTS, audit, walk
from tests.machine_kit import Machine, examples, exo

ALL = 15
R, W, X, CONTROL = int(Rights.READ), int(Rights.WRITE), int(Rights.EXECUTE), int(Rights.CONTROL)
FRAMES = 48
"""Frames beyond the machine's own: few, so that there are shortages."""
PLACES = (0x1000, 0x2000, 0x3000, 0x20_0000, 0x4000_0000, 0x80_0000_0000, USER_END - PAGE_SIZE)
Name = tuple[int, ...]


class SilentCpu:
    """Runs nothing, and remembers whether it was told to forget."""

    def __init__(self, *_: Any) -> None:
        self.flushed = self.code_flushed = False

    def run(self, *_: Any) -> Any:
        raise AssertionError("there is no machine code here")

    def flush_tlb(self) -> None:
        self.flushed = True

    def flush_code(self) -> None:
        self.code_flushed = True

    def code_changed(self) -> None: ...
    def close(self) -> None: ...


class Actor:
    """An environment of the model; its coroutine makes whatever down-call stands in `call`."""

    def __init__(self, machine: Machine, parent: "Actor | None") -> None:
        self.machine, self.parent = machine, parent
        self.number = 0
        self.name: Name = ()
        self.ring: list[tuple[Name, int] | None] = [None] * 16
        self.access: list[tuple[Name, int] | None] = [None] * 4
        self.mappings: dict[int, tuple[int, int]] = {}
        self.reserved: set[int] = set()
        self.requests = 0
        self.call: Callable[[], Any] | None = None
        self.result: Any = None
        self.records = 0

    def born(self, number: int) -> None:
        self.number = number
        self.name = (*(self.parent.name if self.parent else ()), 0x1_0000 + number)
        self.ring[0] = self.access[0] = (self.name, ALL)

    async def live(self) -> None:
        """Make the calls, one each time it is woken."""
        seen = 0
        while True:
            seen = await exo.block(Event.WOKEN, seen)
            if self.call is None:
                continue
            call, self.call = self.call, None
            try:
                self.result = await call()
            except Refused as refused:
                self.result = refused.error
            self.machine.kernel.stop_requested = True


def dominated(ring: list[tuple[Name, int] | None], access: list[tuple[Name, int] | None]) -> int:
    return sum(
        right
        for right in (R, W, X, CONTROL)
        if any(c[1] & e[1] & right and e[0][: len(c[0])] == c[0] for c in ring if c for e in access if e)
    )


actors_index, frames_index = st.integers(0, 7), st.integers(0, FRAMES + 3)
places, rights = st.sampled_from(PLACES), st.sampled_from([R, R | W, R | W, R | X, W, X, R | W | X])


OPERATIONS: list[tuple[str, st.SearchStrategy[dict[str, Any]]]] = []


def operation(weight: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Any], Any]:
    """A method is something an actor may do, `weight` times as likely as the least."""

    def declare(method: Any) -> Any:
        OPERATIONS.extend([(method.__name__, st.fixed_dictionaries(strategies))] * weight)
        return method

    return declare


class Memory(RuleBasedStateMachine):
    """The operations are the down-calls; `expect` compares the answer with the model's."""

    @initialize(actors=st.integers(2, 3))
    def boot(self, actors: int) -> None:
        self.machine = self._machine()
        self.kernel = self.machine.kernel
        self.cpu: Any = self.kernel.cpus[0]
        self.first = self.kernel.frames.first
        self.holders: dict[int, list[Actor]] = {}
        self.loans: dict[int, dict[tuple[Actor, Actor], int]] = {}
        self.lists: dict[int, dict[Actor, list[tuple[Name, int] | None]]] = {}
        self.actors: list[Actor] = []
        self.extents: dict[int, Actor] = {}
        init = Actor(self.machine, None)
        boot = self.kernel.boot_coroutine(init.live)
        init.born(boot.number)
        self.actors.append(init)
        for _ in range(actors):
            self.create(0, FRAMES)
        for index in range(actors + 1):
            for va in PLACES[:2]:
                self.alloc_any(index, index)
                mine = [number for number in self.holders if self.may(self.actors[index], number)]
                self.map(index, len(mine) - 1, va, R | W, index)

    @rule(data=st.data(), which=st.integers(0, 10_000))
    def step(self, data: st.DataObject, which: int) -> None:
        name, strategy = OPERATIONS[which % len(OPERATIONS)]
        getattr(self, name)(**data.draw(strategy, label=name))

    @staticmethod
    def _machine() -> Machine:
        probe = Machine(frames=256, sectors=0, make_cpu=SilentCpu)
        return Machine(frames=probe.kernel.frames.first + FRAMES, sectors=256, make_cpu=SilentCpu)

    # How a step is made.

    def do(self, actor: Actor, call: Callable[[], Any], ends: bool = False) -> Any:
        """Let an actor make one down-call; an Error if it is refused.  Afterwards the model has lost what was taken."""
        self.cpu.flushed = False
        kernel = self.kernel

        async def made() -> Any:
            kernel.stop_requested = ends
            return await call()

        actor.call, actor.result = made, None
        kernel.count_event(kernel.environments[actor.number], Event.WOKEN, 0, 0)
        kernel.run()
        assert not kernel.python_errors
        return actor.result

    def actor(self, index: int) -> Actor:
        return self.actors[index % len(self.actors)]

    def frame(self, index: int, actor: Actor) -> int:
        """Frames in use more often than others, and most often those that `actor` may use; beyond the end there is none."""
        used = list(self.holders)
        near = [number for number in used if self.may(actor, number)]
        if near and index < FRAMES // 2:
            return near[index % len(near)]
        if used and index < FRAMES - 4:
            return used[index % len(used)]
        return self.first - 2 + index

    # What the model says.

    def controls(self, actor: Actor, other: Actor) -> bool:
        return actor is other or bool(dominated(actor.ring, other.access) & CONTROL)

    def may(self, actor: Actor, number: int) -> int:
        holders = self.holders.get(number, [])
        if any(dominated(actor.ring, holder.access) & CONTROL for holder in holders) or actor in holders:
            return ALL
        allowed = 0
        for (_, borrower), granted in self.loans.get(number, {}).items():
            allowed |= granted if borrower is actor else 0
        for entries in self.lists.get(number, {}).values():
            allowed |= dominated(actor.ring, entries)
        return allowed

    def exists(self, number: int) -> bool:
        return bool(self.holders.get(number))

    def let_go(self, actor: Actor, number: int) -> None:
        self.holders[number].remove(actor)
        actor.reserved.discard(number)
        self.lists.get(number, {}).pop(actor, None)
        for pair in [pair for pair in self.loans.get(number, {}) if pair[0] is actor]:
            del self.loans[number][pair]
        actor.mappings = {va: pair for va, pair in actor.mappings.items() if pair[0] != number}
        if not self.holders[number]:
            for table in (self.holders, self.loans, self.lists):
                table.pop(number, None)

    def settle(self) -> None:
        """What every step may bring with it: frames taken from those who are asked and do not answer, rights lost."""
        for actor in self.actors:
            environment = self.kernel.environments[actor.number]
            own = self.kernel.memory.words[environment.own >> 3 : (environment.own + PAGE_SIZE) >> 3]
            total = own[pages.offset_of(pages.OwnPage, "taken_total") >> 3]
            for index in range(actor.records, total):
                at = (pages.offset_of(pages.OwnPage, "taken") >> 3) + 4 * (index % pages.TAKEN_RECORDS)
                number, _, _, state = own[at : at + 4]
                assert state in iter(Taken)
                assert number not in actor.reserved, "a reserved frame was taken"
                assert actor is not self.actors[0], "the first environment lost a frame"
                assert actor in self.holders[number]
                self.let_go(actor, number)
            actor.records = total
        for actor in self.actors:
            actor.mappings = {
                va: (number, granted)
                for va, (number, granted) in actor.mappings.items()
                if not (granted | R) & ~self.may(actor, number)
            }

    def expect(self, result: Any, allowed: bool, *, short: bool = False) -> bool:
        """Whether a call was made: it must be exactly when the model allows it, but for a shortage of frames."""
        if short and result in (Error.NO_FRAME, Error.OVER_QUOTA):
            return False
        made = not isinstance(result, Error)
        assert made == allowed, f"the kernel says {result!r}, the model {allowed}"
        return made

    # The rules: frames.

    @operation(3, who=actors_index, other=actors_index)
    def alloc_any(self, who: int, other: int) -> None:
        actor, owner = self.actor(who), self.actor(other)
        result = self.do(actor, lambda: exo.alloc_page(ANY, owner.number))
        self.settle()
        if self.expect(result, self.controls(actor, owner), short=self.controls(actor, owner)):
            self._given(owner, result)

    @operation(3, who=actors_index, which=frames_index)
    def alloc_this(self, who: int, which: int) -> None:
        actor = self.actor(who)
        number = self.frame(which, actor)
        free = number in self.kernel.frames.free
        result = self.do(actor, lambda: exo.alloc_page(number))
        self.settle()
        if not isinstance(result, Error):
            assert free or not self.exists(number), "a frame was given that somebody holds"
            self._given(actor, number)
        elif free:
            assert result is Error.OVER_QUOTA

    def _given(self, owner: Actor, number: int) -> None:
        assert number not in self.holders
        start = number * PAGE_SIZE
        assert not any(self.kernel.memory.view[start : start + PAGE_SIZE]), "a frame was given that is not zero"
        self.kernel.memory.view[start : start + PAGE_SIZE] = owner.number.to_bytes(4, "little") * 1024
        self.holders[number] = [owner]

    @operation(2, who=actors_index, which=frames_index, other=actors_index)
    def dealloc(self, who: int, which: int, other: int) -> None:
        actor, owner = self.actor(who), self.actor(other)
        number = self.frame(which, actor)
        result = self.do(actor, lambda: exo.dealloc_page(number, owner.number))
        if self.expect(result, self.controls(actor, owner) and owner in self.holders.get(number, [])):
            self.let_go(owner, number)
        self.settle()

    @operation(9, who=actors_index, which=frames_index, va=places, granted=rights, other=actors_index)
    def map(self, who: int, which: int, va: int, granted: int, other: int) -> None:
        actor, owner = self.actor(who), self.actor(other)
        number = self.frame(which, actor)
        result = self.do(actor, lambda: exo.create_mapping(va, number, granted, owner.number))
        self.settle()
        needed = granted | R
        allowed = (
            self.controls(actor, owner)
            and self.exists(number)
            and not needed & ~self.may(actor, number)
            and not needed & ~self.may(owner, number)
        )
        others = [
            pair[1]
            for a in self.actors
            for place, pair in a.mappings.items()
            if pair[0] == number and not (a is owner and place == va)
        ]
        reading = any(
            request.frame is not None and request.frame.number == number and not request.write
            for request in self.kernel.disk.queue.values()
        )
        flips = (granted & W and (granted & X or any(o & X for o in others))) or (
            granted & X and (reading or any(o & W for o in others))
        )
        if result is Error.WRITE_XOR_EXECUTE:
            assert flips
            return
        if self.expect(result, bool(allowed and not flips), short=bool(allowed)):
            owner.mappings[va] = number, needed

    @operation(2, who=actors_index, va=places, other=actors_index)
    def unmap(self, who: int, va: int, other: int) -> None:
        actor, owner = self.actor(who), self.actor(other)
        result = self.do(actor, lambda: exo.remove_mapping(va, owner.number))
        self.settle()
        if self.expect(result, self.controls(actor, owner) and va in owner.mappings):
            del owner.mappings[va]
            assert self.cpu.flushed, "a mapping went and the TLB was not flushed"

    @operation(6, who=actors_index, which=frames_index, other=actors_index, hold=st.booleans(), granted=rights)
    def share(self, who: int, which: int, other: int, hold: bool, granted: int) -> None:
        actor, guest = self.actor(who), self.actor(other)
        number = self.frame(which, actor)
        sharing = Sharing.HOLD if hold else Sharing.LOAN
        result = self.do(actor, lambda: exo.share_page(number, guest.number, sharing, granted))
        allowed = self.exists(number) and bool(self.may(actor, number) & CONTROL)
        if hold:
            allowed = allowed and bool(self.controls(actor, guest) or dominated(actor.ring, guest.access) & W)
            if self.expect(result, allowed, short=allowed) and guest not in self.holders[number]:
                self.holders[number].append(guest)
        elif self.expect(result, allowed and actor is not guest and actor in self.holders[number]):
            self.loans.setdefault(number, {})[actor, guest] = granted
        self.settle()

    @operation(2, who=actors_index, which=frames_index, other=actors_index)
    def unshare(self, who: int, which: int, other: int) -> None:
        actor, guest = self.actor(who), self.actor(other)
        number = self.frame(which, actor)
        lent = [(number, *pair) for number, pairs in self.loans.items() for pair in pairs]
        if lent and which % 4:
            number, actor, guest = lent[which % len(lent)]
        result = self.do(actor, lambda: exo.unshare_page(number, guest.number))
        if self.expect(result, (actor, guest) in self.loans.get(number, {})):
            del self.loans[number][actor, guest]
        self.settle()

    @operation(1, who=actors_index, which=frames_index, on=st.booleans())
    def reserve(self, who: int, which: int, on: bool) -> None:
        actor = self.actor(who)
        number = self.frame(which, actor)
        result = self.do(actor, lambda: exo.reserve_page(number, int(on)))
        if self.expect(result, actor in self.holders.get(number, [])):
            (actor.reserved.add if on else actor.reserved.discard)(number)

    @operation(1, who=actors_index, which=frames_index, extent=st.integers(0, 7))
    def back(self, who: int, which: int, extent: int) -> None:
        actor = self.actor(who)
        number = self.frame(which, actor)
        sector = self._sector(extent)
        result = self.do(actor, lambda: exo.set_backing(number, sector))
        self.expect(result, actor in self.holders.get(number, []) and self.may_use(actor, sector))

    @operation(1, who=actors_index, va=places, count=st.integers(1, 600), bits=st.sampled_from(list(PageBits)))
    def clear(self, who: int, va: int, count: int, bits: PageBits) -> None:
        result = self.do(self.actor(who), lambda: exo.clear_page_bits(va, count, bits))
        assert isinstance(result, int)
        assert self.cpu.flushed
        self.settle()

    @operation(
        3, who=actors_index, va=places, data=st.binary(min_size=1, max_size=9), offset=st.sampled_from([0, PAGE_SIZE - 4])
    )
    def touch(self, who: int, va: int, data: bytes, offset: int) -> None:
        """What a store does depends on the pages it meets; an actor without a handler does not survive a bad one."""
        actor = self.actor(who)
        met = {va, (va + offset + len(data) - 1) & -PAGE_SIZE}
        if any(page not in actor.mappings or not actor.mappings[page][1] & W for page in met):
            return
        self.do(actor, lambda: exo.write(va + offset, data))
        assert self.do(actor, lambda: exo.read(va + offset, len(data))) == data
        self.settle()

    # The rules: names and rights.

    @operation(
        2,
        who=actors_index,
        slot=st.integers(0, 3),
        below=st.integers(0, 3),
        granted=st.integers(0, 15),
        to=st.integers(1, 4),
    )
    def forge(self, who: int, slot: int, below: int, granted: int, to: int) -> None:
        actor = self.actor(who)
        result = self.do(actor, lambda: exo.forge_capability(slot, below, granted, to))
        source = actor.ring[slot]
        if self.expect(result, source is not None) and source is not None:
            actor.ring[to] = (*source[0], below), source[1] & granted
        self.settle()

    @operation(
        2, who=actors_index, other=actors_index, slot=st.integers(0, 3), granted=st.integers(0, 15), to=st.integers(1, 4)
    )
    def give(self, who: int, other: int, slot: int, granted: int, to: int) -> None:
        actor, guest = self.actor(who), self.actor(other)
        source = actor.ring[slot]
        result = self.do(actor, lambda: exo.give_capability(guest.number, slot, granted, to))
        if self.expect(result, source is not None and self.controls(actor, guest)) and source is not None:
            guest.ring[to] = source[0], source[1] & granted
        self.settle()

    @operation(1, who=actors_index, slot=st.integers(1, 4))
    def drop(self, who: int, slot: int) -> None:
        actor = self.actor(who)
        self.do(actor, lambda: exo.drop_capability(slot))
        actor.ring[slot] = None
        self.settle()

    @operation(
        4, who=actors_index, which=frames_index, index=st.integers(0, 4), slot=st.integers(0, 3), granted=st.integers(0, 15)
    )
    def open_frame(self, who: int, which: int, index: int, slot: int, granted: int) -> None:
        actor = self.actor(who)
        number = self.frame(which, actor)
        result = self.do(actor, lambda: exo.set_access(Subject.FRAME, number, index, slot, granted))
        entry = self._entry(actor, slot, granted)
        allowed = index < 4 and self.exists(number) and bool(self.may(actor, number) & CONTROL) and entry is not False
        if self.expect(result, allowed):
            setter = actor if actor in self.holders[number] else self.holders[number][0]
            self.lists.setdefault(number, {}).setdefault(setter, [None] * 4)[index] = entry or None
        self.settle()

    @staticmethod
    def _entry(actor: Actor, slot: int, granted: int) -> Any:
        if not granted:
            return None
        source = actor.ring[slot]
        return False if source is None else (source[0], granted)

    @operation(
        1, who=actors_index, other=actors_index, index=st.integers(0, 3), slot=st.integers(0, 3), granted=st.integers(0, 15)
    )
    def open_environment(self, who: int, other: int, index: int, slot: int, granted: int) -> None:
        actor, subject = self.actor(who), self.actor(other)
        entry = self._entry(actor, slot, granted)
        result = self.do(actor, lambda: exo.set_access(Subject.ENVIRONMENT, subject.number, index, slot, granted))
        if self.expect(result, index > 0 and entry is not False and self.controls(actor, subject)):
            subject.access[index] = entry
        self.settle()

    # The rules: environments.

    @operation(1, who=actors_index, quota=st.integers(5, FRAMES))
    def create(self, who: int, quota: int) -> None:
        if len(self.actors) >= 6:
            return
        parent = self.actor(who)
        child = Actor(self.machine, parent)
        number = self.do(parent, lambda: exo.create_environment(quota))
        self.settle()
        if isinstance(number, Error):
            assert number in (Error.NO_FRAME, Error.OVER_QUOTA)
            return
        child.born(number)
        coroutine = child.live()
        if self.do(parent, lambda: exo.start_coroutine(number, coroutine)) != 0:
            coroutine.close()
            assert not self.controls(parent, child)
            self.kernel.end(self.kernel.environments[number], 0)
            return
        self.actors.append(child)

    @operation(1, who=actors_index, other=actors_index)
    def destroy(self, who: int, other: int) -> None:
        actor, subject = self.actor(who), self.actor(other)
        if subject is self.actors[0] or len(self.actors) < 4:
            return
        allowed = self.controls(actor, subject)
        result = self.do(actor, lambda: exo.destroy(subject.number), ends=actor is subject)
        if actor is not subject and not self.expect(result, allowed):
            return
        self._gone(subject)

    @operation(1, who=st.integers(1, 7))
    def leave(self, who: int) -> None:
        actor = self.actor(who)
        if actor is not self.actors[0] and len(self.actors) > 3:
            self.do(actor, lambda: exo.exit(3), ends=True)
            self._gone(actor)

    def _gone(self, actor: Actor) -> None:
        assert actor.number not in self.kernel.environments
        actor.mappings = {}
        for number in list(self.holders):
            for pair in [pair for pair in self.loans.get(number, {}) if actor in pair]:
                del self.loans[number][pair]
            if actor in self.holders.get(number, []):
                self.let_go(actor, number)
        self.actors.remove(actor)
        self.extents = {sector: owner for sector, owner in self.extents.items() if owner is not actor}
        self.settle()

    # The rules: the disk.

    def may_use(self, actor: Actor, sector: int) -> bool:
        owner = self.extents.get(sector)
        return owner is not None and self.controls(actor, owner)

    def _sector(self, index: int) -> int:
        known = list(self.extents)
        return known[index % len(known)] if known else 0

    @operation(1, who=actors_index)
    def alloc_sectors(self, who: int) -> None:
        actor = self.actor(who)
        result = self.do(actor, lambda: exo.alloc_sectors(8))
        if not isinstance(result, Error):
            assert result not in self.extents
            assert not any(self.machine.disk.read(result, 8)), "sectors were given that are not erased"
            self.extents[result] = actor

    @operation(1, who=actors_index, extent=st.integers(0, 7))
    def free_sectors(self, who: int, extent: int) -> None:
        actor, sector = self.actor(who), self._sector(extent)
        result = self.do(actor, lambda: exo.free_sectors(sector))
        if self.expect(result, self.extents.get(sector) is actor):
            del self.extents[sector]

    @operation(3, who=actors_index, which=frames_index, extent=st.integers(0, 7), write=st.booleans())
    def transfer(self, who: int, which: int, extent: int, write: bool) -> None:
        actor, sector = self.actor(who), self._sector(extent)
        number = self.frame(which, actor)
        call = exo.write_sectors if write else exo.read_sectors
        result = self.do(actor, lambda: call(sector, 8, number))
        executable = any(pair[1] & X for a in self.actors for pair in a.mappings.values() if pair[0] == number)
        allowed = (
            self.may_use(actor, sector) and self.exists(number) and bool(self.may(actor, number) & (R if write else W))
        )
        if result is Error.WRITE_XOR_EXECUTE:
            assert executable
            assert not write
        elif result is not Error.TOO_MANY:
            self.expect(result, allowed and (write or not executable))

    @operation(1, who=actors_index, cycles=st.integers(1, 300_000))
    def wait(self, who: int, cycles: int) -> None:
        actor = self.actor(who)
        self.do(actor, lambda: exo.block(Event.TIME, 0, self.kernel.clock.now + cycles))
        self.settle()

    # After every step.

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        if not hasattr(self, "kernel"):
            return
        audit(self.kernel)
        assert set(self.kernel.environments) == {actor.number for actor in self.actors}
        for actor in self.actors:
            environment = self.kernel.environments[actor.number]
            leaves, _ = walk(self.kernel.memory.words, environment.root, range(USER_SLOTS))
            found = {
                leaf.va: (leaf.frame, R | (W if leaf.writable else 0) | (X if leaf.executable else 0)) for leaf in leaves
            }
            assert found == actor.mappings
            assert environment.reserved == actor.reserved
        holders = {
            number: sorted(holder.number for holder in frame.holders)
            for number, frame in self.kernel.frames.used.items()
            if not frame.table and frame.holders
        }
        assert holders == {number: sorted(actor.number for actor in who) for number, who in self.holders.items()}
        loans = {
            (number, lender.number, borrower.number): granted
            for number, frame in self.kernel.frames.used.items()
            for (lender, borrower), granted in frame.loans.items()
        }
        assert loans == {
            (number, lender.number, borrower.number): granted
            for number, table in self.loans.items()
            for (lender, borrower), granted in table.items()
        }

    def teardown(self) -> None:
        if hasattr(self, "machine"):
            self.machine.close()


TestMemory = Memory.TestCase
TestMemory.settings = settings(examples(60), stateful_step_count=40)
