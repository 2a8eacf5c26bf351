"""The contract between the kernel and everything above it: one table, read by both sides.

Nothing here runs on either side's behalf.  `downcalls` and `upcalls` are the two tables; `layout` is the address map;
`pages` are the pages the kernel exposes; `errors` is every way to be refused.  Dispatch, the C header, the Python stubs,
the reference manual and the test strategies are all derived from these.  This package imports nothing else of ours.
"""
