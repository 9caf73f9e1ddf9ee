"""The gateway as a part of `runbooks up`."""

import json
import os
import signal
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.conftest import free_port
from tests.real.upped import Upped, alive, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


def health(url):
    """What it says of itself; it waits while the gateway restarts, and is not refused."""
    try:
        with urlopen(f"{url}/healthz", timeout=60) as answer:
            return json.load(answer)
    except HTTPError as e:
        return json.load(e)


def test_gateway_is_started_restarted_and_stopped_with_up(tmp_path):
    port = free_port()
    with Upped(tmp_path / "home", port, "--gateway-port", str(port)) as up:
        up.ready()
        # Asked for the port that the server has, it takes the next free one and says so.
        assert f"port {port} is taken: the gateway uses " in up.said
        url = json.loads((up.home / "up.json").read_text())["gateway"]
        assert url.startswith("http://127.0.0.1:")
        assert not url.endswith(f":{port}")
        until("the gateway is well", lambda: health(url)["status"] == "ok", 90)
        before = up.children["gateway"]
        os.kill(before, signal.SIGKILL)
        assert health(url)["inbox"] == "ok"  # its socket is ours: nobody was refused
        until("it is written down", lambda: up.children.get("gateway") not in (None, before), 40)
        now = up.children["gateway"]
        assert up.stop(signal.SIGTERM) == 0
        assert not alive(now)


def test_address_of_another_machine_is_refused_by_name(tmp_path):
    with Upped(tmp_path / "home", free_port(), "--gateway-host", "192.0.2.1") as up:
        assert up.process.wait(60) == 2
        assert "--gateway-host 192.0.2.1: cannot listen there" in up.said
        assert "Traceback" not in up.said
