"""Attacks on the protection: programs that try what they may not, beside one that must not notice."""
