"""A database as a library OS: a transactional store of keys and values that lays out its own sectors."""

from libos.database.errors import CorruptStore, DatabaseError, StoreFull
from libos.database.store import Store
from libos.database.transaction import Transaction

__all__ = ["CorruptStore", "DatabaseError", "Store", "StoreFull", "Transaction"]
