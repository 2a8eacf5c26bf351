"""File systems as libraries: one small interface, and what implements it."""
