"""Fixtures: a stand-in for NVIDIA's driver library."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.nvml_stub.stub import Driver, built, loaded


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def driver(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """A driver with no GPU yet, that this process's pynvml talks to."""
    with loaded(nvml_library, tmp_path / "nvml.txt", monkeypatch) as stand_in:
        yield stand_in
