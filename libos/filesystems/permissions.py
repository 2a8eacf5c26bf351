"""Who may do what to a file: the mode bits of POSIX.1-2017, chapter 4, for one user with groups.

User 0 may read and write everything, search every directory, and execute what anybody may.
"""

from dataclasses import dataclass
from typing import Final

from libos.filesystems.interface import Attributes, Errno, FileSystemError, Kind

READ: Final = 4
WRITE: Final = 2
SEARCH: Final = 1
"""Of a directory; of a file: execute."""
SET_UID: Final = 0o4000
SET_GID: Final = 0o2000
STICKY: Final = 0o1000
_GROUP_EXECUTE: Final = 0o010


@dataclass(frozen=True)
class User:
    """A user, the user's group, and the other groups that the user is in."""

    uid: int = 0
    gid: int = 0
    groups: frozenset[int] = frozenset()

    @property
    def privileged(self) -> bool:
        return self.uid == 0

    def in_group(self, gid: int) -> bool:
        """Whether `gid` is one of the user's groups."""
        return gid == self.gid or gid in self.groups

    def may(self, it: Attributes, want: int) -> bool:
        """Whether the bits that count for this user, the owner's, the group's or the others', hold all of `want`."""
        if self.privileged:
            return not want & SEARCH or it.kind is Kind.DIRECTORY or bool(it.mode & 0o111)
        shift = 6 if it.uid == self.uid else 3 if self.in_group(it.gid) else 0
        return it.mode >> shift & want == want

    def owns(self, it: Attributes) -> bool:
        """Whether the user may do what only an owner may."""
        return self.privileged or it.uid == self.uid

    def require(self, it: Attributes, want: int) -> None:
        """Raise EACCES unless the user may."""
        if not self.may(it, want):
            raise FileSystemError(Errno.EACCES)

    def require_owner(self, it: Attributes) -> None:
        """Raise EPERM unless the user owns it."""
        if not self.owns(it):
            raise FileSystemError(Errno.EPERM)

    def require_removal(self, directory: Attributes, it: Attributes) -> None:
        """Raise EACCES unless the user may change the directory, or EPERM if it is sticky and the user owns neither the
        directory nor what is in it."""
        self.require(directory, WRITE | SEARCH)
        if directory.mode & STICKY and not self.owns(it) and not self.owns(directory):
            raise FileSystemError(Errno.EPERM)

    def chosen_mode(self, it: Attributes, mode: int) -> int:
        """The mode that a `chmod` to `mode` gives: only members of a file's group may make it set-group-ID."""
        return mode if self.privileged or self.in_group(it.gid) else mode & ~SET_GID

    def require_new_owner(self, it: Attributes, uid: int | None, gid: int | None) -> None:
        """Raise EPERM unless the user may give `it` to another owner or group: an owner may give it to one of the own
        groups, and nobody unprivileged may give a file away."""
        if self.privileged:
            return
        self.require_owner(it)
        if uid not in (None, it.uid) or (gid not in (None, it.gid) and not self.in_group(gid or 0)):
            raise FileSystemError(Errno.EPERM)


def without_set_ids(it: Attributes) -> int:
    """The mode of a file that somebody has written to or given away: it runs with nobody else's rights any more.  A
    set-group-ID bit without execution by the group means something else (mandatory locks) and stays."""
    cleared = SET_UID | (SET_GID if it.mode & _GROUP_EXECUTE else 0)
    return it.mode & ~cleared if it.kind is Kind.FILE else it.mode
