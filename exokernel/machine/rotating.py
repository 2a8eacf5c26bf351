"""A rotating disk: seeks, rotation, transfer, a track buffer, and a volatile write cache that empties itself in the
background.

Sectors lie on tracks, a track of each surface makes a cylinder, and the platters never stop: where the head is above a
track follows from the time alone.  Tracks are skewed against each other, and cylinders more, so that a transfer that goes
on to the next one finds its sector just coming.  After a read the drive goes on reading into its buffer, so that who reads
on in order does not wait for a whole turn.  A write ends when the cache has it; from then on the drive writes the cache
out in elevator order (upwards, and again from the lowest), whole runs at a time, whenever nothing else is to do, and
before a write for which there is no room.  A flush does all of that at once.

Source of the model: Ruemmler and Wilkes, An Introduction to Disk Drive Modeling, IEEE Computer 27(3), 1994; its seek curve
is a + b * sqrt(d) for short seeks over d cylinders and c + e * d for long ones."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

from exokernel.machine.drives import Drive, Settled


@dataclass(frozen=True)
class RotatingFigures:
    """The HP 97560 of 1994, as in Ruemmler and Wilkes and in Kotz, Toh and Radhakrishnan, A Detailed Simulation Model of
    the HP 97560 Disk Drive, Dartmouth PCS-TR94-220.  Times in cycles of a nanosecond."""

    surfaces: int = 19
    sectors_per_track: int = 72
    cylinders: int = 1962
    """A disk with more sectors than these have has denser tracks, and turns as fast."""
    rotation: int = 14_992_504
    """One turn, at 4002 a minute."""
    track_skew: int = 8
    cylinder_skew: int = 18
    """Sectors by which the first sector of a track, or of a cylinder's first track, lies behind the last one before it."""
    short_seek: int = 3_240_000
    short_seek_root: int = 400_000
    """a and b, of seeks over up to `short_seeks` cylinders."""
    short_seeks: int = 383
    long_seek: int = 8_000_000
    long_seek_cylinder: int = 8_000
    """c and e."""
    head_switch: int = 1_600_000
    """To another track of the cylinder the head is on."""
    overhead: int = 2_200_000
    """What the controller takes for each request."""
    bus_sector: int = 51_200
    """A sector between the drive and the computer, over a SCSI bus of 10 MB/s."""
    buffer: int = 256
    """Sectors read ahead, 128 KiB."""
    cache: int = 1_024
    """Sectors in the write cache, 512 KiB: our choice; drives a few years later had that much or more."""


class Rotating(Drive):
    """One arm, one head at a time, `figures` of one drive."""

    name = "rotating"
    summary = "a rotating disk of 1994 (HP 97560): seeks, rotation, track buffer, volatile write cache"

    def __init__(self, sectors: int, figures: RotatingFigures | None = None) -> None:
        super().__init__(sectors)
        self.figures = f = figures or RotatingFigures()
        self._per_track = max(f.sectors_per_track, -(-sectors // (f.surfaces * f.cylinders)))
        self._sector = f.rotation // self._per_track
        self._turn = self._sector * self._per_track
        self._free = 0
        """The cycle from which on the arm has nothing to do."""
        self._dirty: list[int] = []
        """Sectors in the write cache, in order."""
        self._first = self._last = self._limit = 0
        """The sectors in the buffer, from the first to behind the last when the drive began to read ahead; and to where it
        will."""
        self._ahead_since: int | None = None
        """The cycle in which it began to, if it still does."""

    # Where sectors are.

    def cylinder(self, sector: int) -> int:
        """The cylinder a sector is on."""
        return sector // (self._per_track * self.figures.surfaces)

    def _along(self, sector: int) -> int:
        """How many sectors would pass under the head from sector 0 to this one, read in one go: skews included."""
        track = sector // self._per_track
        cylinder = track // self.figures.surfaces
        return sector + track * self.figures.track_skew + cylinder * (self.figures.cylinder_skew - self.figures.track_skew)

    def seek(self, cylinders: int) -> int:
        """Cycles of a seek over so many cylinders."""
        f = self.figures
        if not cylinders:
            return 0
        if cylinders <= f.short_seeks:
            return f.short_seek + isqrt(f.short_seek_root * f.short_seek_root * cylinders)
        return f.long_seek + f.long_seek_cylinder * cylinders

    def _reach(self, now: int, sector: int) -> int:
        """The cycle in which the head is over the beginning of a sector, if it sets out now."""
        seek = self.seek(abs(self.cylinder(sector) - self.cylinder(self.position)))
        if not seek and sector // self._per_track != self.position // self._per_track:
            seek = self.figures.head_switch
        arrived = now + seek
        return arrived + (self._along(sector) * self._sector - arrived) % self._turn

    def _move(self, now: int, sector: int, count: int) -> int:
        """Move sectors between head and medium; gives the cycle in which that is done."""
        done = self._reach(now, sector) + (self._along(sector + count - 1) + 1 - self._along(sector)) * self._sector
        self.position = sector + count
        self._free = done
        return done

    # Requests.

    def transfer(self, now: int, write: bool, sector: int, count: int, forced: bool, through: Sequence[int]) -> int:
        self.idle_until(now)
        f = self.figures
        begin = now + f.overhead
        over_the_bus = count * f.bus_sector
        if through:
            begin = max(begin, self._free)
            self._stop_reading(begin)
            for place in through:
                begin += self.seek(abs(self.cylinder(place) - self.cylinder(self.position)))
                self.position = place
            self._free = begin
        if write:
            self._forget_buffered(sector, count, now)
            if not forced:
                return self._into_cache(begin, sector, count) + over_the_bus - now
            self._take(sector, count)
        elif (ready := self._in_memory(begin, sector, count)) is not None:
            return max(ready + f.bus_sector, begin + over_the_bus) - now
        begin = max(begin, self._free)
        self._stop_reading(begin)
        done = self._move(begin, sector, count)
        if not write:
            self._begin_reading(sector, sector + count, done)
        return done + f.bus_sector - now

    def flush(self, now: int) -> int:
        self.idle_until(now)
        done = now + self.figures.overhead
        while self._dirty:
            done = self._write_out(max(done, self._free))
        return max(done, self._free) - now

    def idle_until(self, now: int) -> None:
        while self._dirty and self._free < now:
            self._write_out(self._free)

    # Reading ahead.

    def _read_until(self, now: int) -> int:
        """The sector up to which the drive has read by then."""
        if self._ahead_since is None or now <= self._ahead_since:
            return self._last
        passed = self._along(self._last) + (now - self._ahead_since) // self._sector
        return bisect_left(range(self._limit), passed, self._last, self._limit, key=self._along)

    def _begin_reading(self, first: int, last: int, since: int) -> None:
        """The buffer has sectors `first` to `last`, and from cycle `since` on those behind them come."""
        self._first, self._last, self._ahead_since = first, last, since
        self._limit = last + self.figures.buffer // 2

    def _stop_reading(self, now: int) -> None:
        """The arm is wanted elsewhere: what has been read stays, and the head is where it has come to."""
        if self._ahead_since is not None:
            self._last = self.position = self._read_until(now)
            self._ahead_since = None

    def _in_memory(self, now: int, sector: int, count: int) -> int | None:
        """The cycle in which sectors are in the drive's memory without a seek: in the cache, or in the buffer now or
        soon."""
        end = sector + count
        place = bisect_left(self._dirty, sector)
        if self._dirty[place : place + count] == list(range(sector, end)):
            return now
        if sector < self._first or end > (self._last if self._ahead_since is None else self._limit):
            return None
        if self._ahead_since is None:
            return now
        reached, half = self._read_until(now), self.figures.buffer // 2
        ready = now if end <= reached else self._ahead_since + (self._along(end) - self._along(self._last)) * self._sector
        if reached == self._limit < end + half:
            self.position = reached
            self._begin_reading(self._first, reached, self._reach(now, reached))
        self._first = max(self._first, end - half)
        self._limit = max(self._limit, end + half)
        return max(now, ready)

    def _forget_buffered(self, sector: int, count: int, now: int) -> None:
        """Sectors are written: if the buffer has any of them, it is of no use any more."""
        if sector < self._limit and self._first < sector + count:
            self._stop_reading(now)
            self._first = self._last = self._limit = 0

    # The write cache.

    def _into_cache(self, begin: int, sector: int, count: int) -> int:
        """Make room and take a write; gives the cycle in which there is room."""
        self.settled = [
            one
            for one in self.settled
            if one.cycle <= begin or one.sector >= sector + count or sector >= one.sector + one.count
        ]
        self._take(sector, count)
        while self._dirty and len(self._dirty) + count > self.figures.cache:
            begin = self._write_out(max(begin, self._free))
        for one in range(sector, sector + count):
            insort(self._dirty, one)
        self._free = max(self._free, begin)
        return begin

    def _take(self, sector: int, count: int) -> None:
        """Sectors are not in the cache any more."""
        del self._dirty[bisect_left(self._dirty, sector) : bisect_left(self._dirty, sector + count)]

    def _write_out(self, now: int) -> int:
        """Write the next run of the cache, upwards from the head or else from the lowest; gives the cycle of its end."""
        self._stop_reading(now)
        first = bisect_left(self._dirty, self.position)
        if first == len(self._dirty):
            first = 0
        end = first + 1
        while end < len(self._dirty) and self._dirty[end] == self._dirty[end - 1] + 1 and end - first < self._per_track:
            end += 1
        sector, count = self._dirty[first], end - first
        del self._dirty[first:end]
        done = self._move(now, sector, count)
        self.settled.append(Settled(done, sector, count))
        return done
