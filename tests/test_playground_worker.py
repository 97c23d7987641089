"""Newest request first: what is superseded ends at its next check, and nothing kills the thread."""

import threading

import pytest

from emolib.playground.session import Newest, Superseded

SECONDS = 10


@pytest.fixture
def worker():
    errors = []
    worker = Newest(errors.append)
    worker.errors = errors
    yield worker
    worker.close()


def test_what_is_submitted_is_done(worker):
    done = []
    worker.submit(lambda ticket: done.append(1))
    assert worker.idle(SECONDS) and done == [1]


def test_a_newer_request_ends_the_running_one_and_replaces_the_waiting_one(worker):
    started, go, steps, done = threading.Event(), threading.Event(), [], []

    def long(ticket):
        for i in range(1000):
            ticket.check()
            steps.append(i)
            started.set()
            go.wait(SECONDS)

    worker.submit(long)
    assert started.wait(SECONDS)
    for name in ("skipped", "newest"):
        worker.submit(lambda ticket, name=name: done.append(name))
    go.set()
    assert worker.idle(SECONDS)
    assert steps == [0]  # it ended at the check after the step it was in
    assert done == ["newest"]
    assert worker.errors == []


def test_rest_ends_as_soon_as_a_newer_request_comes(worker):
    resting, ends = threading.Event(), []

    def work(ticket):
        resting.set()
        try:
            ticket.rest(600)
        except Superseded:
            ends.append("superseded")
            raise

    worker.submit(work)
    assert resting.wait(SECONDS)
    worker.submit(lambda ticket: ends.append("next"))
    assert worker.idle(SECONDS) and ends == ["superseded", "next"]


def test_rest_returns_where_nothing_newer_comes(worker):
    ends = []
    worker.submit(lambda ticket: (ticket.rest(0.01), ends.append("rested")))
    assert worker.idle(SECONDS) and ends == ["rested"]


def test_an_error_is_told_and_the_next_request_is_done(worker):
    done = []
    worker.submit(lambda ticket: 1 / 0)
    assert worker.idle(SECONDS)
    worker.submit(lambda ticket: done.append(1))
    assert worker.idle(SECONDS) and done == [1]
    assert [type(error) for error in worker.errors] == [ZeroDivisionError]


def test_closing_ends_what_runs():
    worker, started, ended = Newest(lambda error: None), threading.Event(), threading.Event()

    def work(ticket):
        started.set()
        try:
            ticket.rest(600)
        finally:
            ended.set()

    worker.submit(work)
    assert started.wait(SECONDS)
    worker.close()
    assert ended.wait(SECONDS)


def test_what_is_certain_is_done_in_its_order_and_ended_by_nothing(worker):
    started, go, done = threading.Event(), threading.Event(), []

    def save(ticket):
        started.set()
        assert go.wait(SECONDS)
        ticket.check()
        done.append("first save")

    worker.submit(save, certain=True)
    assert started.wait(SECONDS)
    worker.submit(lambda ticket: done.append("slider"))
    worker.submit(lambda ticket: done.append("second save"), certain=True)
    go.set()
    assert worker.idle(SECONDS) and done == ["first save", "second save", "slider"]
