"""Hosted services, spoken to on a local server that has their dialects and their bad days."""

import base64
import io
import json
import threading
import traceback
from collections import deque
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import evaluation_world as world
import httpx
import pytest
import torch
from evaluation_world import home  # noqa: F401
from PIL import Image, PngImagePlugin

from emolib import images
from emolib.cli.main import main
from emolib.editors import hosted
from emolib.editors.hosted import Hosted, open_service
from emolib.runtime import InputError, generator

KEY = "sk-secret-0123456789"
NAMES = tuple(hosted.SERVICES)
GREEN = (-1.0, 1.0, -1.0)


def png(size=(64, 64), colour=(0, 255, 0)):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def answer(name, server, picture=None):
    """What the service of that name says when all is well."""
    text = base64.b64encode(picture or png()).decode()
    return {
        "stability": {"image": text, "finish_reason": "SUCCESS", "seed": 1},
        "openai": {"data": [{"b64_json": text}], "usage": {"total_tokens": 7}},
        "gemini": {
            "candidates": [{"content": {"parts": [{"text": "Sure!"}, {"inlineData": {"data": text}}]}}]
        },
        "bfl": {"id": "t1", "polling_url": f"{server.address}/poll/t1"},
    }[name]


class Server(ThreadingHTTPServer):
    """Says what stands in `plan`: (status, JSON or bytes, headers), "hang" or "cut"; else that all is well.

    `posts` are the requests that would have been billed; `polls`, `links` what BFL's other addresses say."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.plan, self.polls, self.links = deque(), deque(), deque()
        self.posts, self.gets, self.gate = [], [], threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def handle_error(self, request, client_address):
        """A client that hung up is what is tested."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def send(self, status, body, headers=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "x-request-id": "r-1", **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, dict(self.headers), body))
        name = self.path.split("/")[1]
        todo = self.server.plan.popleft() if self.server.plan else (200, answer(name, self.server))
        if todo == "hang":
            self.server.gate.wait(5)
        if todo in ("hang", "cut"):
            self.close_connection = True
        else:
            self.send(*todo)

    def do_GET(self):
        self.server.gets.append((self.path, dict(self.headers)))
        if self.path.startswith("/poll"):
            ready = {"status": "Ready", "result": {"sample": f"{self.server.address}/link"}}
            self.send(*(self.server.polls.popleft() if self.server.polls else (200, ready)))
        else:
            self.send(*(self.server.links.popleft() if self.server.links else (200, png())))


@pytest.fixture
def server(monkeypatch):
    server = Server()
    for name, dialect in list(hosted.SERVICES.items()):
        moved = replace(dialect, url=f"{server.address}/{name}/{{model}}")
        monkeypatch.setitem(hosted.SERVICES, name, moved)
        monkeypatch.setenv(dialect.variables[0], KEY)
    monkeypatch.setattr(hosted, "TIMEOUT", httpx.Timeout(1, connect=5))
    monkeypatch.setattr(hosted, "SIZE", 64)
    server.slept = []
    monkeypatch.setattr(hosted.time, "sleep", server.slept.append)
    yield server
    server.gate.set()
    server.shutdown()
    server.server_close()


def source(height=40, width=40):
    return torch.rand((1, 3, height, width), generator=generator(0)) * 2 - 1


def edit(service, emotion="anger", seed=0, picture=None):
    picture = source() if picture is None else picture
    return Hosted(service)(picture, emotion, generator=generator(seed))


@pytest.mark.parametrize("name", NAMES)
def test_every_dialect_asks_and_is_understood(server, name, tmp_path):
    service = open_service(name, budget=1, folder=tmp_path)
    edited = edit(service, picture=source(30, 48))
    assert edited.shape == (1, 3, 30, 48)
    assert torch.allclose(edited.mean((0, 2, 3)), torch.tensor(GREEN), atol=1e-5)
    ((path, headers, body),) = server.posts
    header, form = service.dialect.header
    assert headers.get(header, headers.get(header.title())) == form.format(KEY)
    assert service.model in path + body.decode(errors="ignore")
    # The picture goes without metadata: a PNG of pixels alone, of the model's area and the source's shape.
    sent = body if b"\x89PNG" in body else base64.b64decode(max(strings(json.loads(body)), key=len))
    sent = sent[sent.index(b"\x89PNG") :]
    sent = sent[: sent.index(b"IEND") + 8]
    assert set(PngImagePlugin.PngImageFile(io.BytesIO(sent)).info) == set()
    assert Image.open(io.BytesIO(sent)).size == (80, 48)
    words = "photo of an angry person" if name == "stability" else "Make the person look angry"
    assert words in body.decode(errors="ignore")
    (record,) = service.take_records()
    assert record["service"] == name and record["model"] == service.model and record["status"] == "ok"
    assert record["request"] == "r-1" and record["date"] and record["price"] == service.price
    assert name == "openai" or str(record["seed"]) in body.decode(errors="ignore")
    # BFL's picture lies behind a link, which is not told the key.
    assert [path for path, _ in server.gets] == (["/poll/t1", "/link"] if name == "bfl" else [])
    assert all(KEY not in str(headers) for path, headers in server.gets if path == "/link")
    # The same question again, from another process: nothing is asked, nothing is paid.
    again = open_service(name, budget=1, folder=tmp_path)
    assert torch.equal(edit(again, picture=source(30, 48)), edited) and len(server.posts) == 1
    assert again.ledger.spent == service.price


def strings(value):
    """Every text in a JSON value."""
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return [text for part in parts for text in strings(part)]
    return [value] if isinstance(value, str) else []


REFUSALS = [
    ("stability", (403, {"name": "content_moderation", "errors": ["flagged"]}), "content_moderation"),
    ("stability", (200, {"image": "", "finish_reason": "CONTENT_FILTERED"}), "CONTENT_FILTERED"),
    ("openai", (400, {"error": {"code": "moderation_blocked"}}), "moderation_blocked"),
    ("openai", (200, {"data": []}), "no picture"),
    ("gemini", (200, {"candidates": [{"finishReason": "IMAGE_SAFETY"}]}), "IMAGE_SAFETY"),
    (
        "gemini",
        (200, {"candidates": [{"content": {"parts": [{"text": "I would rather not"}]}}]}),
        "no picture",
    ),
    ("gemini", (200, {"promptFeedback": {"blockReason": "OTHER"}}), "OTHER"),
    ("bfl", (200, {"status": "Request Moderated"}), "Request Moderated"),
]


@pytest.mark.parametrize(("name", "said", "reason"), REFUSALS)
def test_a_refusal_is_a_result(server, name, said, reason, tmp_path):
    server.plan.append(said)
    for _ in range(2):
        service = open_service(name, budget=1, folder=tmp_path)
        assert torch.equal(edit(service), source())
        (record,) = service.take_records()
        assert record["status"] == "refused" and reason in record["reason"]
    assert len(server.posts) == 1


TURNED_AWAY = [("stability", 401, {}), ("bfl", 402, {}), ("openai", 403, {}), ("gemini", 404, {})]
TURNED_AWAY += [("bfl", 429, {}), ("gemini", 429, {"Retry-After": "900"})]


@pytest.mark.parametrize(("name", "status", "headers"), TURNED_AWAY)
def test_what_was_turned_away_unpaid_stops_at_once_and_may_be_tried_again(
    server, name, status, headers, tmp_path
):
    server.plan.append((status, {"message": f"sorry,\nnot with {KEY}"}, headers))
    service = open_service(name, budget=1, folder=tmp_path)
    with pytest.raises(InputError, match=f"{name}.*HTTP {status}") as error:
        edit(service)
    assert len(server.posts) == 1 and service.ledger.spent == 0 and not server.slept
    assert_no_key(error.value, tmp_path)
    edit(service)
    assert len(server.posts) == 2 and service.take_records()[0]["status"] == "ok"


def assert_no_key(error, folder):
    """Neither the line, nor a traceback with every variable in it, nor a file holds the key."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    kept = "".join(file.read_text(errors="ignore") for file in folder.iterdir())
    assert KEY not in f"{error}{''.join(shown.format())}{kept}" and "\n" not in str(error)


@pytest.mark.parametrize("status", [429, 503])
def test_a_time_to_come_back_is_kept(server, status):
    server.plan += [(status, b"", {"Retry-After": "2"})] * 2
    service = open_service("openai", budget=1)
    first = edit(service)
    assert torch.equal(edit(service), first)  # in memory, too, nothing is asked twice
    assert len(server.posts) == 3 and all(2 <= seconds <= 2.5 for seconds in server.slept)
    server.plan += [(status, b"", {"Retry-After": "0"})] * 9
    with pytest.raises(InputError, match=f"HTTP {status}"):
        edit(service, "awe")
    assert len(server.posts) == 3 + hosted.TRIES


BROKEN = {
    "500": (500, b"oops"),
    "truncated": (200, b'{"data": [{"b64_'),
    "another form": (200, {"artifacts": []}),
    "no base64": (200, {"data": [{"b64_json": "***"}], "candidates": 1, "image": "*", "status": 1}),
    "half a picture": (200, {"data": [{"b64_json": base64.b64encode(png()[:60]).decode()}]}),
    "hang": "hang",
    "cut": "cut",
}


@pytest.mark.parametrize("fault", BROKEN)
def test_what_may_have_been_paid_for_is_never_asked_again(server, fault, tmp_path):
    server.plan.append(BROKEN[fault])
    name = "stability" if fault == "another form" else "openai"
    with pytest.raises(InputError, match=name) as error:
        edit(open_service(name, budget=1, folder=tmp_path))
    assert_no_key(error.value, tmp_path)
    service = open_service(name, budget=1, folder=tmp_path)
    assert torch.equal(edit(service), source())
    assert service.take_records()[0]["status"] == "lost" and len(server.posts) == 1
    assert service.ledger.spent == service.price


def test_an_answer_of_another_size_is_cropped_to_the_shape_and_brought_back(server):
    picture = Image.open(io.BytesIO(png((90, 30), (255, 0, 0))))
    picture.paste((0, 255, 0), (30, 0, 60, 30))
    file = io.BytesIO()
    picture.save(file, "PNG")
    server.plan.append((200, answer("openai", server, file.getvalue())))
    edited = edit(open_service("openai", budget=1))
    assert edited.shape == source().shape and (edited[:, 1, :, 2:-2] > 0.99).all()


def test_a_link_that_has_expired_is_asked_for_anew_and_then_lost(server):
    service = open_service("bfl", budget=1)
    server.links.append((403, b"expired"))
    assert not torch.equal(edit(service), source())
    server.links += [(403, b"expired")] * 2
    assert torch.equal(edit(service, "awe"), source())
    assert [record["status"] for record in service.take_records()] == ["ok", "lost"]
    server.polls.append((404, {"detail": "Task not found"}))
    assert torch.equal(edit(service, "fear"), source()) and len(server.posts) == 3


def test_who_is_killed_while_waiting_goes_on_waiting(server, tmp_path):
    server.polls += [(200, {"status": "Pending", "polling_url": "x"}), (500, b"")]
    with pytest.raises(InputError, match="HTTP 500 while waiting"):
        edit(open_service("bfl", budget=1, folder=tmp_path))
    service = open_service("bfl", budget=1, folder=tmp_path)
    assert not torch.equal(edit(service), source())
    assert service.take_records()[0]["status"] == "ok" and len(server.posts) == 1
    assert server.slept == [hosted.POLL]


def test_the_key_goes_to_nobody_else(server):
    server.plan.append((200, {"id": "t", "polling_url": "https://example.com/poll"}))
    service = open_service("bfl", budget=1)
    assert torch.equal(edit(service), source()) and service.take_records()[0]["status"] == "lost"


def test_the_limit_holds_for_all_services_of_a_folder_and_for_earlier_runs(server, tmp_path):
    openai = open_service("openai", budget=0.1, folder=tmp_path)
    edit(openai), edit(openai, "awe")
    with pytest.raises(InputError, match=r"\$0.10 of \$0.10 are spent.*raise --budget"):
        edit(open_service("bfl", budget=0.1, folder=tmp_path), "fear")
    assert len(server.posts) == 2
    edit(open_service("bfl", budget=0.2, folder=tmp_path), "fear")
    assert len(server.posts) == 3


@pytest.mark.parametrize(
    ("name", "budget", "key", "line"),
    [
        ("openal", 1, KEY, "unknown service 'openal'; did you mean 'openai'"),
        ("openai/gpt-image-22", 1, KEY, "unknown model of openai .*did you mean 'gpt-image-2'"),
        ("openai", 0.001, KEY, "--budget 0.001 is below one edit of gpt-image-2, about"),
        ("openai", None, KEY, "costs money.* give --budget"),
        ("openai", float("nan"), KEY, "--budget nan is below"),
        ("openai", 1, "", "no key: set the environment variable OPENAI_API_KEY"),
        ("openai", 1, KEY + "\n", "OPENAI_API_KEY has .* a newline"),
    ],
)
def test_bad_input_is_one_line(server, name, budget, key, line, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(InputError, match=line) as error:
        open_service(name, budget=budget, folder=tmp_path)
    assert KEY not in str(error.value) and not server.posts


def test_the_command_asks_tells_the_price_and_records_the_answer(server, tmp_path, capsys):
    path, out = tmp_path / "in.png", tmp_path / "out.png"
    images.save_image(source(64, 64), path)
    command = ["edit", str(path), "-o", str(out), "--to", "anger", "--box", "16,16,40,40"]
    command += ["--method", "hosted", "--model", "openai"]
    assert main(command) == 2 and not server.posts
    assert "give --budget" in capsys.readouterr().err
    assert main([*command, "--budget", "0.2"]) == 0
    assert "sends 1 faces away for about $0.050 each" in capsys.readouterr().err
    before, after = (images.to_tensor(images.open_image(file)) for file in (path, out))
    assert not torch.equal(before, after) and torch.equal(before[..., 50:], after[..., 50:])
    record = images.read_provenance(out)
    assert record["model"] == "openai/gpt-image-2" and record["answers"][0]["request"] == "r-1"
    assert KEY not in str(record)
    out.unlink()
    server.plan.append((400, {"error": {"code": "moderation_blocked"}}))
    assert main([*command, "--budget", "0.2"]) == 2 and not out.exists()
    assert "refused" in capsys.readouterr().err


def test_a_killed_evaluation_pays_for_no_edit_twice_and_counts_refusals(server, tmp_path):
    options = replace(world.settings(tmp_path).options, budget=1.0, answers=tmp_path / "answers")
    names, more = ("nothing", "hosted:openai"), {"people": 2, "options": options}
    refused = (400, {"error": {"code": "moderation_blocked"}})
    server.plan += [(200, answer("openai", server)), refused, (200, answer("openai", server)), "cut"]
    with pytest.raises(InputError, match="paid for"):
        world.evaluate(tmp_path, *names, **more)
    board = world.evaluate(tmp_path, *names, **more)
    assert board["edits"] == len(server.posts) == len({body for _, _, body in server.posts})
    rates = {name: board["methods"]["hosted:openai"]["all"][name] for name in ("refused", "lost")}
    assert {name: round(rate["value"] * rate["n"]) for name, rate in rates.items()} == {
        "refused": 1,
        "lost": 1,
    }
    assert board["metrics"][-2:] == ["refused", "lost"] and KEY not in json.dumps(board)
    world.evaluate(tmp_path, *names, **more)
    assert len(server.posts) == board["edits"]
