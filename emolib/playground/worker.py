"""One thread that works on the newest request only. Nothing here knows what the work is."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Superseded(Exception):
    """A newer request waits: what is running is no longer wanted."""


class Ticket:
    """A running request's view of the queue."""

    def __init__(self, worker: Newest) -> None:
        self._worker = worker

    def check(self) -> None:
        """Call between steps. Raises Superseded once a newer request waits."""
        if self._worker.newer():
            raise Superseded

    def rest(self, seconds: float) -> None:
        """Wait for the hand to rest. Raises Superseded as soon as a newer request comes within `seconds`."""
        if self._worker.newer(seconds):
            raise Superseded


Work = Callable[[Ticket], None]


class Newest:
    """A thread with room for one waiting request: a newer one takes its place and ends the running one.

    failed  called, in the thread, with what a request raised (other than Superseded)
    """

    def __init__(self, failed: Callable[[Exception], None]) -> None:
        self._failed = failed
        self._changed = threading.Condition()
        self._waiting: Work | None = None
        self._busy = self._closed = False
        self._thread = threading.Thread(target=self._run, name="playground", daemon=True)
        self._thread.start()

    def submit(self, work: Work) -> None:
        """Do `work(ticket)` next. Returns at once."""
        with self._changed:
            self._waiting = work
            self._changed.notify_all()

    def newer(self, seconds: float = 0.0) -> bool:
        """Whether a newer request waits, or comes within `seconds`; also true once the worker is closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or self._waiting is not None, seconds)

    def idle(self, seconds: float) -> bool:
        """Wait until nothing runs or waits; False if that takes longer than `seconds`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy and self._waiting is None, seconds)

    def close(self) -> None:
        """End the running request at its next check, and the thread."""
        with self._changed:
            self._closed, self._waiting = True, None
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._waiting is not None)
                if self._closed:
                    return
                work, self._waiting, self._busy = self._waiting, None, True
            try:
                work(Ticket(self))
            except Superseded:
                pass
            except Exception as error:  # whatever it is, the next request must find a living thread
                self._failed(error)
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()
