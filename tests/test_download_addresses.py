"""Addresses that are none of the downloader's business, and the one it was told to connect to."""

import pytest

from emolib.data import _net
from emolib.data.download import Settings
from tests.bad_server import PUBLIC, BadServer, internet
from tests.downloads import LIMITS, fetch, wanted


@pytest.fixture
def server():
    server = BadServer()
    yield server
    server.stop()


PRIVATE = [
    "http://127.0.0.1/ok/x",
    "http://localhost/ok/x",
    "http://127.1/ok/x",
    "http://2130706433/ok/x",
    "http://0x7f000001/ok/x",
    "http://0.0.0.0/ok/x",
    "http://10.1.2.3/ok/x",
    "http://169.254.169.254/latest/meta-data",
    "http://[::1]/ok/x",
    "http://[::ffff:127.0.0.1]/ok/x",
    "http://user:secret@127.0.0.1/ok/x",
    "https://inside.example/ok/x",
    "http://mixed.example/ok/x",
]


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("redirected", [False, True])
def test_private_addresses_are_never_connected_to(server, tmp_path, address, redirected):
    network = internet(server, inside_example=[["192.168.1.1"]], mixed_example=[[PUBLIC, "127.0.0.1"]])
    found = fetch(server, tmp_path, wanted(x=f"/to/{address}" if redirected else address), network=network)
    assert found.loc["x.jpg", "status"] == "failed"
    assert "private or reserved" in found.loc["x.jpg", "reason"]
    assert network.sockets.connected == ([PUBLIC] if redirected else [])


def test_a_flag_allows_private_addresses(server, tmp_path):
    settings = Settings(LIMITS, interval=0, wayback=None, allow_private=True)
    address = f"http://127.0.0.1:{server.port}/ok/x"
    found = fetch(server, tmp_path, wanted(x=address), settings, _net.Network())
    assert found.loc["x.jpg", "status"] == "ok"


@pytest.mark.parametrize(
    ("address", "public"),
    [
        (PUBLIC, True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("64:ff9b::5db8:d822", True),  # NAT64 of the public one
        ("64:ff9b::7f00:1", False),  # and of loopback
        ("2002:7f00:1::", False),  # 6to4 of loopback
        ("::ffff:10.0.0.1", False),
        ("::7f00:1", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("172.16.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("fe80::1%eth0", False),
        ("fc00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("::", False),
    ],
)
def test_which_addresses_are_public(address, public):
    assert _net.is_public(address) is public


def test_the_checked_answer_is_the_one_connected_to(server, tmp_path):
    network = internet(server, rebind_example=[["93.184.216.99"], ["127.0.0.1"]])
    found = fetch(server, tmp_path, wanted(x="http://rebind.example/ok/x"), network=network)
    assert found.loc["x.jpg", "status"] == "ok"
    assert network.sockets.connected == ["93.184.216.99"] and network.lookups["rebind.example"] == 1


def test_tls_still_checks_the_name(server):
    """The socket goes to an address, the certificate is asked for by name."""
    asked = []

    class Stream(_net._TimedStream):
        def start_tls(self, ssl_context, server_hostname=None, timeout=None):
            asked.append((server_hostname, ssl_context.check_hostname, ssl_context.verify_mode.name))
            raise _net.httpcore.ConnectError("enough")

    network = internet(server)
    connect = network.sockets.connect_tcp
    network.sockets.connect_tcp = lambda *args: Stream(connect(*args), _net._Deadline())
    fetcher = _net.Fetcher(LIMITS, network, allow_private=False, connections=1)
    assert fetcher.get("https://pictures.example/ok/x").kind == "unreachable"
    assert asked == [("pictures.example", True, "CERT_REQUIRED")] and network.sockets.connected == [PUBLIC]
