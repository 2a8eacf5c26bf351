"""Tests of building guests."""
