"""Real servers for the tests: skipped when absent, a failure when RUNBOOKS_REQUIRE names them."""

import gc
import os
import warnings
from collections.abc import Iterator

import docker
import pytest
from docker.errors import DockerException

from tests.flows.conftest import slack  # noqa: F401 - the same stand-in


def missing(what: str, why: str) -> None:
    """Skip the test, or fail it where CI demands this server."""
    required = {r.strip() for r in os.environ.get("RUNBOOKS_REQUIRE", "").split(",")}
    if what in required:
        pytest.fail(f"{what} is required but {why}")
    pytest.skip(f"no {what}: {why}")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: waits for more than a minute")


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """A client of the local Docker Engine."""
    client, problem = None, ""
    with warnings.catch_warnings():
        # The SDK leaves the socket of a refused connection to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            client = docker.from_env(timeout=30)
            client.ping()
        except DockerException as e:
            problem = type(e).__name__
        if problem:
            gc.collect()
    if client is None or problem:
        missing("docker", f"no engine answers ({problem})")
    yield client
    client.close()
