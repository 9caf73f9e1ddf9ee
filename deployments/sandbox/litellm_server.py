"""A stand-in LiteLLM proxy: `python litellm_server.py --config FILE --host HOST --port PORT`.

It needs its `litellm_*.py` and `vllm_*.py` siblings and ruamel.yaml, nothing else: answers,
limits, cool-downs and log lines follow LiteLLM 1.106 as captured. Faults come from `SANDBOX_*`
variables and the JSON file in `SANDBOX_FAULTS_FILE` (see `litellm_settings.ProxySettings`).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from deployments.sandbox import litellm_text as text
    from deployments.sandbox.litellm_api import Proxy
    from deployments.sandbox.litellm_config import Config, ConfigError, load
    from deployments.sandbox.litellm_settings import ProxySource
    from deployments.sandbox.live_settings import UnknownSetting
    from deployments.sandbox.vllm_http import MAX_HEAD, Server
else:
    import litellm_text as text
    from litellm_api import Proxy
    from litellm_config import Config, ConfigError, load
    from litellm_settings import ProxySource
    from live_settings import UnknownSetting
    from vllm_http import MAX_HEAD, Server

DRAIN_S = 0.15


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="litellm", allow_abbrev=False)
    p.add_argument("--config", required=True)
    p.add_argument("--host", default="0.0.0.0")  # noqa: S104 - LiteLLM's own default
    p.add_argument("--port", type=int, default=4000)
    p.add_argument("--num_workers", type=int, default=1)
    p.add_argument("--detailed_debug", action="store_true")
    return p


async def serve(config: Config, source: ProxySource, host: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    text.starting(os.getpid())
    await asyncio.sleep(source.current().startup_s)
    proxy = Proxy(config, source)
    server = Server(proxy.handle, proxy.finished)
    try:
        listener = await asyncio.start_server(
            server.connection, host, port, family=socket.AF_UNSPEC, limit=MAX_HEAD
        )
    except OSError as e:
        text.bind_failed(host, port, os.strerror(e.errno or 98))
        return 1
    text.serving(config.aliases, host, port)
    await stop.wait()
    listener.close()
    await server.drain(DRAIN_S)
    text.stopping(os.getpid())
    return 0


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """The command line; returns the exit code: 1 for a config file that is of no use."""
    environ = os.environ if environ is None else environ
    args = parser().parse_args(sys.argv[1:] if argv is None else argv)
    try:
        source = ProxySource(environ)
        config = load(args.config, environ)
    except UnknownSetting as e:
        sys.stderr.write(f"litellm_server.py: error: sandbox: {e}\n")
        return 2
    except ConfigError as e:
        text.config_failed(str(e))
        return 1
    return asyncio.run(serve(config, source, args.host, args.port))


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    # Threads that wait for a backend which does not answer must not keep the proxy alive.
    os._exit(status)
