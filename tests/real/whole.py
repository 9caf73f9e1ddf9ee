"""A whole platform for the tests of one file: `runbooks up`, as a user starts it."""

from collections.abc import Iterator

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from deployments.play_platform import secrets
from tests import quick
from tests.conftest import free_port
from tests.real.upped import Upped


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upped]:
    """It stands where others have a server alone; Prefect in this process talks to it."""
    quick.remember_secret_fields()
    home = tmp_path_factory.mktemp("platform") / "home"
    gateway = ("--gateway-port", str(free_port()))
    with Upped(home, free_port(), *gateway, env=secrets()) as up:
        up.ready()
        settings = {PREFECT_API_URL: f"{up.ui}/api", PREFECT_HOME: home / "prefect"}
        with pytest.MonkeyPatch.context() as patch, temporary_settings(settings):
            patch.setenv("RUNBOOKS_HOME", str(home))
            yield up
