"""Weight files from a server: one file for each address, whole or not there, and named when it is broken."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from crispmask import network
from crispmask.checkpoint import load_weights
from crispmask.checkpoint.download import fetch, fetch_verified
from crispmask.checkpoint.release import convert_checkpoint
from crispmask.engine.checks import check_weight_file
from crispmask.errors import UserError

CACHE = "crispmask"


class Server(ThreadingHTTPServer):
    """Answers by host and path; keeps what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.cut_short = False


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        key = f"{self.headers['Host'].partition(':')[0]}{self.path}"
        self.server.asked.append(key)
        content = self.server.files.get(key)
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if content:
            self.wfile.write(content[: len(content) // 2] if self.server.cut_short else content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.05))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(server: Server, rest: str, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.server_port}/{rest}"


def weights(value: float, folder: Path) -> bytes:
    torch.save({"weight": torch.full((1, 1), float(value))}, folder / "written.pth")
    return (folder / "written.pth").read_bytes()


def loaded(path: str) -> float:
    model = torch.nn.Linear(1, 1, bias=False)
    load_weights(model, path)
    return model.weight.item()


def test_each_address_has_its_own_file(server: Server, tmp_path: Path) -> None:
    places = ["127.0.0.1/a/m.pth", "localhost/a/m.pth", "127.0.0.1/b/m.pth", "127.0.0.1/a/m.pth?v=2&w=%2F"]
    for number, place in enumerate(places):
        server.files[place] = weights(number, tmp_path)
    addresses = [address(server, rest, host) for host, _, rest in (place.partition("/") for place in places)]
    assert [loaded(path) for path in addresses] == [0, 1, 2, 3]
    assert [loaded(path) for path in addresses] == [0, 1, 2, 3]
    assert server.asked == places  # once each, and with its question as it was written


def test_the_hash_is_no_part_of_the_address(server: Server, tmp_path: Path) -> None:
    server.files["127.0.0.1/m.pth?v=2"] = weights(5, tmp_path)
    path = address(server, "m.pth?v=2")
    local = fetch_verified(path)
    assert local.name == "m.pth" and local.is_relative_to(tmp_path / "cache")
    with pytest.raises(UserError, match=rf"'{local}' has sha256 .*, not {'0' * 64}: .* delete it"):
        loaded(f"{path}&sha256={'0' * 64}")
    assert server.asked == ["127.0.0.1/m.pth?v=2"]
    with pytest.raises(UserError, match=r"asks for md5: only \?sha256= is known"):
        loaded(address(server, "m.pth?md5=0"))


def test_half_a_download_is_none(server: Server, tmp_path: Path) -> None:
    server.files["127.0.0.1/m.pth"] = weights(5, tmp_path)
    server.cut_short = True
    with pytest.raises(
        UserError, match=r"m\.pth' cannot be fetched \(.*(incomplete|got only).*\): download it"
    ):
        loaded(address(server, "m.pth"))
    server.cut_short = False
    assert loaded(address(server, "m.pth")) == 5


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda whole: b"<!DOCTYPE html><title>Sign in", "is no checkpoint but a web page"),
        (lambda whole: whole[:-30], "cannot be read: it is cut short"),
        (lambda whole: whole.replace(bytes(3) + b"\x40", bytes(3) + b"\x41"), "is damaged: its part"),
    ],
)
def test_the_file_to_delete_is_named(damage: object, sentence: str, server: Server, tmp_path: Path) -> None:
    whole = weights(2.0, tmp_path)  # 00 00 00 40
    server.files["127.0.0.1/m.pth"] = damage(whole)
    path = address(server, "m.pth")
    for read in (loaded, check_weight_file, lambda path: convert_checkpoint(path, "detectron2")):
        with pytest.raises(UserError, match=sentence) as error:
            read(path)
        local = fetch(path)
        assert str(error.value).startswith(f"Weight file '{local}' ")
        assert f"It was downloaded from {path}: delete it to have it fetched anew." in str(error.value)
    server.files["127.0.0.1/m.pth"] = whole
    local.unlink()
    assert loaded(path) == 2


def test_no_address_leads_out_of_the_cache(server: Server, tmp_path: Path) -> None:
    rests = ["../../../evil.pth", "a/..", "%2e%2e/%2fetc%2fx.pth", "a/?id=../../x", "x" * 300 + ".pth", ""]
    for rest in rests:
        server.files[f"127.0.0.1/{rest}"] = weights(1, tmp_path)
        local = fetch(address(server, rest))
        assert local.resolve().is_relative_to(tmp_path / "cache" / CACHE) and local.is_file()
    assert fetch(address(server, rests[-2])).suffix == ".pth"


def test_what_is_not_there_is_said(server: Server) -> None:
    with pytest.raises(UserError, match=r"cannot be fetched \(HTTP Error 404: Not Found\): download it"):
        loaded(address(server, "gone.pth"))


@pytest.mark.parametrize(
    ("given", "asked"), [("my model.pth", "my%20model.pth"), ("a%20\u00fc.pth", "a%20%C3%BC.pth")]
)
def test_blanks_and_letters_are_sent_as_escapes(
    given: str, asked: str, server: Server, tmp_path: Path
) -> None:
    server.files[f"127.0.0.1/{asked}"] = weights(3, tmp_path)
    assert loaded(address(server, given)) == 3


def test_a_password_is_not_told(server: Server) -> None:
    path = address(server, "m.pth?token=secret2&md5=0").replace("//", "//me:secret1@")
    with pytest.raises(UserError, match="a password, which are not sent: download it otherwise") as error:
        loaded(path)
    assert "secret" not in str(error.value) and "/m.pth'" in str(error.value)


def test_a_server_that_says_nothing_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(network, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = f"http://127.0.0.1:{silent.getsockname()[1]}/m.pth"
        with pytest.raises(UserError, match=r"cannot be fetched \(.*timed out"):
            loaded(path)
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("address", ["s3://bucket/x.pth", "gs://bucket/x.pth", "hf://a/b"])
def test_an_address_of_an_unknown_kind_is_named_as_it_was_given(address: str) -> None:
    with pytest.raises(UserError, match=f"'{re.escape(address)}' has an address of a kind"):
        fetch(address)


def test_addresses_of_files_are_files(tmp_path: Path) -> None:
    path = tmp_path / "a b.pth"
    assert fetch(path.as_uri()) == path
    assert fetch(str(path)) == path
