"""What LiteLLM's proxy writes to its log. Standard library only."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

VERSION = "1.106.2"
_SITE = "/opt/lab/litellm-venv/lib/python3.11/site-packages/litellm"


def line(text: str) -> None:
    """One line, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def record(logger: str, level: str, where: str, message: str) -> None:
    """One record of LiteLLM's loggers."""
    line(f"{time.strftime('%H:%M:%S')} - LiteLLM {logger}:{level}: {where} - {message}")


def starting(pid: int) -> None:
    """First lines of uvicorn."""
    line(f"INFO:     Started server process [{pid}]")
    line("INFO:     Waiting for application startup.")


def serving(aliases: Iterable[str], host: str, port: int) -> None:
    """The models, and that it listens."""
    line("\n\nLiteLLM: Proxy initialized with Config, Set models:")
    for alias in aliases:
        line(f"    {alias}")
    line("INFO:     Application startup complete.")
    line(f"INFO:     Uvicorn running on http://{host}:{port} (Press CTRL+C to quit)")


def stopping(pid: int) -> None:
    """Last lines of uvicorn."""
    for said in (
        "Shutting down",
        "Waiting for application shutdown.",
        "Application shutdown complete.",
        f"Finished server process [{pid}]",
    ):
        line(f"INFO:     {said}")


def config_failed(error: str) -> None:
    """The config file is of no use: LiteLLM's traceback, which ends in the cause."""
    line("Traceback (most recent call last):")
    for file, number, function in (
        ("proxy/proxy_cli.py", 958, "run_server"),
        ("proxy/proxy_server.py", 2483, "get_config"),
        ("proxy/proxy_server.py", 2245, "_get_config_from_file"),
    ):
        line(f'  File "{_SITE}/{file}", line {number}, in {function}')
    line(error)


def bind_failed(host: str, port: int, why: str) -> None:
    """The port is taken."""
    line(
        "ERROR:    [Errno 98] error while attempting to bind on address "
        f"('{host}', {port}): {why.lower()}"
    )


def completed(model: str) -> None:
    """One request went through."""
    record("Router", "INFO", "router.py:1413", f"litellm.acompletion(model={model}) 200 OK")


def failed(model: str, message: str) -> None:
    """A deployment failed."""
    said = message.partition("\n\nLiteLLM:")[0]
    record(
        "Router", "INFO", "router.py:1437", f"litellm.acompletion(model={model}) Exception {said}"
    )


def rests(model_id: str, seconds: float) -> None:
    """A deployment goes into cool-down."""
    record(
        "Router",
        "WARNING",
        "cooldown_handlers.py:214",
        f"Adding deployment {model_id} to cooldown list for {seconds:g} seconds",
    )


def answered_error(message: str) -> None:
    """The client got an error."""
    record(
        "Proxy",
        "ERROR",
        "common_request_processing.py:1060",
        f"litellm.proxy.proxy_server._handle_llm_api_exception(): Exception occured - {message}",
    )
