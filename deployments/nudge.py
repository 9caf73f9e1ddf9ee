"""Tell the worker of this home that a run waits: it polls at once instead of a second later.

Best effort by design. A nudge that is lost, or comes before its run, costs at most the wait for
the worker's next poll; a nudge for nothing costs one poll. It carries no data and so nothing that
could be forged: what runs is what the Prefect server says. Standard library only.
"""

import socket
from pathlib import Path

from blocks.journal import home as product_home
from deployments.sockets import socket_path

WORD = b"poll"


def nudge_path(home: Path) -> Path:
    """Where the warm worker of this home listens (unix datagrams)."""
    return socket_path(home, "nudge.sock")


def nudge(home: Path | None = None) -> bool:
    """Tell the local warm worker to poll now; never blocks and never raises.

    Args:
        home: product home; that of this process if it is not given.

    Returns:
        Whether a worker has been told. False: nobody listens there, or it has been told so often
        that its socket is full, in which case it polls anyway.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            end.sendto(WORD, str(nudge_path(home or product_home())))
    except (OSError, ValueError):
        return False
    return True
