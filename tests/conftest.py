"""What holds for every test: no network, no display, no settings of the machine."""

import os
import socket

# Before any test module loads torch or the Hub client.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("EMOLIB_HOME", None)
os.environ.pop("EMOLIB_DEVICE", None)

import pytest

connect = socket.socket.connect


def pytest_addoption(parser):
    parser.addoption(
        "--screenshot", metavar="FILE", help="test_playground_browser: write the playground's picture there"
    )


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails at once instead of depending on it."""

    def guarded(self, address):
        local = self.family == getattr(socket, "AF_UNIX", None) or address[0] in (
            "127.0.0.1",
            "::1",
            "localhost",
        )
        if not local:
            raise OSError(f"tests have no network: connection to {address[0]} refused")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)
