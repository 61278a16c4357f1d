"""The Hugging Face hub without stalls: asked once whether it answers; if it does not, its local cache must do."""

from __future__ import annotations

import os
import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

PATIENCE = 10.0  # seconds for a first answer, name resolution included


@contextmanager
def bounded_hub() -> Iterator[bool]:
    """Inside, hub libraries neither stall nor retry for minutes. Gives True when the hub answers.

    Without an answer they are switched to their offline mode for the time being: what is cached loads, the rest fails
    at once with an OSError. A user's HF_HUB_OFFLINE, HF_HUB_ETAG_TIMEOUT, HF_HUB_DOWNLOAD_TIMEOUT and HF_ENDPOINT hold.
    """
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", "10")
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "10")
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        yield False
    elif answers(constants.ENDPOINT):
        yield True
    else:
        with offline():
            yield False


def hub_errors() -> tuple[type[Exception], ...]:
    """What hub libraries raise for a name that is not there or a connection that breaks."""
    from huggingface_hub import get_session

    client = sys.modules[type(get_session()).__module__.partition(".")[0]]  # httpx, in newer releases httpx2
    return OSError, ValueError, KeyError, client.HTTPError


def answers(endpoint: str, patience: float = PATIENCE) -> bool:
    """True when a server at `endpoint` says anything within `patience` seconds."""
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(_ask(endpoint, patience)), daemon=True)
    thread.start()
    thread.join(patience)  # urlopen's own timeout does not cover the name resolution
    return bool(heard) and heard[0]


def _ask(endpoint: str, patience: float) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=patience).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:
        return isinstance(error.reason, ssl.SSLError)  # it is there; the hub library may know its certificate
    except OSError:
        return False
    return True


@contextmanager
def offline() -> Iterator[None]:
    """Inside, hub libraries make no connection. Reading a local file, `datasets` would otherwise report it to the hub.

    Sets the modules' flags, because the environment variable is read once, when they are imported.
    """
    from huggingface_hub import constants

    flags: list[Any] = [constants]
    if "datasets" in sys.modules:
        flags.append(sys.modules["datasets"].config)
    before = [module.HF_HUB_OFFLINE for module in flags]
    for module in flags:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in zip(flags, before, strict=True):
            module.HF_HUB_OFFLINE = value
