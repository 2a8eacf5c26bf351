"""Whole runs: programs against their oracles, files against each other."""
