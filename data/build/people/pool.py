"""Many independent jobs on all cores, with progress and without stopping at the first that fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed


def render_all(
    render: Callable[[int], object],
    numbers: Sequence[int],
    *,
    noun: str,
    workers: int | None,
    start_worker: Callable[[], None],
    every: int = 10,
) -> int:
    """`render(number)` for every number, in `workers` processes (None: one a core); how many failed.

    `start_worker` prepares each process. A job that raises is named (`noun` and number) and the others go
    on; the progress line comes after `every` jobs. What a job returns is dropped: it writes its own file.
    """
    start, failed = time.time(), 0
    with ProcessPoolExecutor(workers, initializer=start_worker) as pool:
        jobs = {pool.submit(render, number): number for number in numbers}
        for done, job in enumerate(as_completed(jobs), 1):
            if job.exception() is not None:
                failed += 1
                print(f"{noun} {jobs[job]}: {job.exception()!r}", flush=True)
            if done % every == 0 or done == len(jobs):
                rate = (time.time() - start) / done
                left = rate * (len(jobs) - done) / 60
                print(f"{done}/{len(jobs)}  {rate:.1f} s a job, {left:.0f} min left", flush=True)
    return failed
