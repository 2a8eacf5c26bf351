"""Enumerations whose members are looked up at the price of any class attribute."""

from enum import Enum
from typing import TypeVar

E = TypeVar("E", bound=type[Enum])


def direct(enumeration: E) -> E:
    """Store an enumeration's members as attributes of the class, as Python does from 3.12 on.

    In Python 3.11 each look-up runs a descriptor written in Python, ten times the price, and on the way of a down-call
    there are dozens.
    """
    for name, member in enumeration.__members__.items():
        type.__setattr__(enumeration, name, member)
    return enumeration
