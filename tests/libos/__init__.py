"""Tests of the native library OS and of the loader."""
