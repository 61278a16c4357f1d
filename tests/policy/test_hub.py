"""Whether the hub answers is found out in bounded time, and without it the libraries are offline for that while only."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import datasets
import pytest
from huggingface_hub import constants, is_offline_mode

from mimosa.policy.hub import answers, bounded_hub, hub_errors, offline


class Refusing(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.send_error(404)

    def log_message(self, *_args):
        pass


def slow_failure(*_args, **_kwargs):
    time.sleep(2)
    raise OSError


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Refusing) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join(5)


def test_any_answer_is_an_answer(server):
    assert answers(server)


def test_a_closed_port_is_none():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        assert not answers(f"http://127.0.0.1:{held.getsockname()[1]}")


def test_a_silent_server_and_a_slow_resolver_are_given_up(monkeypatch):
    began = time.monotonic()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}", patience=0.3)
    monkeypatch.setattr(socket, "getaddrinfo", slow_failure)
    assert not answers("http://somewhere.example", patience=0.3)
    assert time.monotonic() - began < 1.8


def test_offline_lasts_as_long_as_the_block():
    assert not is_offline_mode()
    with pytest.raises(KeyError), offline():
        assert is_offline_mode() and datasets.config.HF_HUB_OFFLINE
        raise KeyError
    assert not is_offline_mode() and not datasets.config.HF_HUB_OFFLINE


def test_the_hub_is_asked_once_and_a_users_offline_mode_holds(monkeypatch, server):
    monkeypatch.setattr(constants, "ENDPOINT", server)
    with bounded_hub() as online:
        assert online and not is_offline_mode()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with bounded_hub() as online:
        assert not online and is_offline_mode()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("mimosa.policy.hub.answers", lambda endpoint: pytest.fail("was not to be asked"))
    with bounded_hub() as online:
        assert not online


def test_connection_errors_of_the_hub_library_are_covered(monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(hub_errors()):
        HfApi(endpoint="http://127.0.0.1:9").dataset_info("someone/none", timeout=2)
