"""The one error of this package."""


class BuildError(Exception):
    """A guest cannot be built.  The message is for the user: what is wrong, where, and what to do."""
