"""A watchdog over host code that has to come back: Python cannot be preempted, so one that never awaits is stopped from a
second thread of the host, by an exception."""

from __future__ import annotations

import ctypes
import threading


class NeverCameBack(BaseException):
    """Raised inside a coroutine by the watchdog; a BaseException so that `except Exception` does not swallow it."""


class Watchdog:
    """A host thread that looks, once in `seconds`, whether the same resumption is still running."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._resumption = 0
        self.running = False
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._target = 0

    def __enter__(self) -> Watchdog:
        self._target = threading.get_ident()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def resuming(self) -> None:
        """A coroutine is about to run."""
        self._resumption += 1
        self.running = True
        if self._thread is None:
            self._over.clear()
            self._thread = threading.Thread(target=self._watch, name="exokernel watchdog", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        seen = -1
        while not self._over.wait(self._seconds):
            if self.running and self._resumption == seen:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._target), ctypes.py_object(NeverCameBack))
            seen = self._resumption
