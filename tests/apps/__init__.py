"""Tests of the C programs, by two oracles: the host's own libraries, and independent computations in Python."""
