"""Library operating systems: untrusted management code above the down-calls."""
