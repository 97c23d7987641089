"""Work sorted by host: only so many at a time, only so often, and nothing before its time."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import defaultdict
from typing import Any


class HostQueue:
    """A thread-safe queue whose `take` waits for work that its host may be asked for now.

    At most `per_host` tasks of a host are out at once, their starts at least `interval` seconds apart.
    """

    def __init__(self, per_host: int, interval: float):
        self._per_host, self._interval = per_host, interval
        self._tasks: dict[str, list] = defaultdict(list)  # host -> heap of (not before, number, task)
        self._out: dict[str, int] = defaultdict(int)
        self._next: dict[str, float] = defaultdict(float)
        self._due: list = []  # heap of (when, number, host); an entry counts only if `_planned` agrees
        self._planned: dict[str, float] = {}
        self._number = itertools.count()
        self._closed = False
        self._change = threading.Condition()

    def add(self, host: str, task: Any, *, wait: float = 0.0) -> None:
        """Queue `task`, to be handed out no sooner than `wait` seconds from now."""
        with self._change:
            start = time.monotonic() + wait if wait > 0 else 0.0
            heapq.heappush(self._tasks[host], (start, next(self._number), task))
            self._wake(host)

    def take(self) -> tuple[str, Any] | None:
        """The next (host, task), waiting for one if need be; None once the queue is closed."""
        with self._change:
            while not self._closed:
                now = time.monotonic()
                if not self._due or self._due[0][0] > now:
                    self._change.wait(self._due[0][0] - now if self._due else None)
                    continue
                when, _, host = heapq.heappop(self._due)
                if self._planned.get(host) != when:
                    continue
                del self._planned[host]
                if self._start(host) > now:  # the host was paused since
                    self._wake(host)
                    continue
                task = heapq.heappop(self._tasks[host])[2]
                self._out[host] += 1
                self._next[host] = now + self._interval
                self._wake(host)
                return host, task
            return None

    def done(self, host: str, *, pause: float = 0.0) -> None:
        """A task of `host` is back; with `pause` the whole host rests that many seconds."""
        with self._change:
            self._out[host] -= 1
            if pause > 0:
                self._next[host] = max(self._next[host], time.monotonic() + pause)
            self._wake(host)

    def close(self) -> None:
        """Hand out nothing more."""
        with self._change:
            self._closed = True
            self._change.notify_all()

    def _start(self, host: str) -> float:
        return max(self._next[host], self._tasks[host][0][0])

    def _wake(self, host: str) -> None:
        if self._tasks[host] and self._out[host] < self._per_host:
            start = self._start(host)
            if start < self._planned.get(host, float("inf")):
                self._planned[host] = start
                heapq.heappush(self._due, (start, next(self._number), host))
                self._change.notify_all()
