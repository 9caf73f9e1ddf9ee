"""The gateway's process: `python -m deployments.gateway.serve --port 4300`.

`runbooks up` starts it, restarts it, and lends it a socket that listens for as long as `up` lives.
By itself it needs PREFECT_API_URL (the server, e.g. http://127.0.0.1:4200/api) and RUNBOOKS_HOME
(where its inbox is; ~/.llm-runbooks without it), and the variables that the inventories
name as ${ENV}. One gateway per product home.
"""

import argparse
import logging
import os
import socket
import sys


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m deployments.gateway.serve")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=4300, help="TCP port")
    parser.add_argument("--fd", type=int, help="a listening socket to use instead")
    given = parser.parse_args()
    # Our own tries are bounded, and the dispatcher's patience is not: eight of Prefect's on top
    # of each would hide for minutes that its server is away.
    os.environ["PREFECT_CLIENT_MAX_RETRIES"] = "1"
    os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", "15")
    os.environ["PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED"] = "false"
    if not os.environ.get("PREFECT_API_URL"):
        sys.exit("PREFECT_API_URL is not set; e.g. http://127.0.0.1:4200/api of `runbooks up`")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    for name, level in (("httpx", logging.WARNING), ("prefect.client", logging.ERROR)):
        logging.getLogger(name).setLevel(level)  # a line for each call, or each try, otherwise
    _serve(given.host, given.port, given.fd)


def _serve(host: str, port: int, fd: int | None) -> None:
    import uvicorn

    from blocks.errors import Permanent
    from deployments.gateway.app import build
    from deployments.gateway.patience import Patient
    from deployments.gateway.state import Gateway

    try:
        gateway = Gateway()
    except Permanent as e:
        sys.exit(str(e))
    config = uvicorn.Config(
        build(gateway),
        host=host,
        port=port,
        access_log=False,
        log_config=None,
        server_header=False,
        http=Patient,
        limit_concurrency=256,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
    )
    lent = [socket.socket(fileno=fd)] if fd is not None else None
    uvicorn.Server(config).run(sockets=lent)


if __name__ == "__main__":
    main()
