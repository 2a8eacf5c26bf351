"""Tests of page replacement: the strategies, and the replay of traces."""
