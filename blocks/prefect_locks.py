"""The locks of services on a Prefect server and the leases behind them, read and repaired.

Prefect 3.8 has no request that lists the leases of a lock. Where the server keeps them in files
of this machine they are read there; that they are this server's is proved, not assumed, by a
lease of our own that must appear among them.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import (
    GlobalConcurrencyLimitCreate,
    GlobalConcurrencyLimitUpdate,
)
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectNotFound

from blocks.prefect_health import prefect_client, read_server
from blocks.prefect_models import Lease, Lock

LOCKS = "service:"
PROBES = "runbooks:probe:"
_PAGE = 200


async def read_locks(stack: str) -> tuple[Lock, ...]:
    """The locks of a stack's services, or of all (`*`), those that are held with their leases.

    Raises:
        Transient: the server does not answer.
    """
    prefix = LOCKS if stack == "*" else f"{LOCKS}{stack}:"
    async with prefect_client() as client:
        limits = [x for x in await _limits(client) if x.name.startswith(prefix)]
    # The slots first, then the leases: a lease written in between is not missed.
    leases: dict[str, list[Lease]] = {}
    unseen = ""
    if any(x.active_slots for x in limits):
        folder, unseen = await lease_folder()
        if folder:
            leases, unseen = await asyncio.to_thread(_scan, folder)
    return tuple(
        Lock(
            name=x.name,
            limit=x.limit,
            active=x.active,
            slots=x.active_slots,
            touched_at=x.updated,
            leases=None if unseen else tuple(leases.get(str(x.id), ())),
            unseen=unseen,
        )
        for x in limits
    )


async def _limits(client: PrefectClient) -> list[GlobalConcurrencyLimitResponse]:
    found: list[GlobalConcurrencyLimitResponse] = []
    while True:
        page = await client.read_global_concurrency_limits(limit=_PAGE, offset=len(found))
        found += page
        if len(page) < _PAGE:
            return found


async def lease_folder() -> tuple[Path | None, str]:
    """The folder on this machine where the server keeps its leases, or None and why not.

    Takes a lease of its own for an instant, on a limit of its own, and looks for its file.

    Raises:
        Transient: the server does not answer.
    """
    facts = await read_server()
    if not facts.lease_storage.endswith(".filesystem"):
        return None, f"the server keeps leases in {facts.lease_storage or 'an unknown place'}"
    folder, name = Path(facts.lease_folder), f"{PROBES}{uuid4().hex}"
    async with prefect_client() as client:
        await client.create_global_concurrency_limit(
            GlobalConcurrencyLimitCreate(name=name, limit=1, active=True)
        )
        try:
            got: Any = await client.increment_concurrency_slots_with_lease(
                names=[name], slots=1, mode="concurrency", lease_duration=60
            )
            lease = UUID(got.json()["lease_id"])
            ours = await asyncio.to_thread((folder / f"{lease}.json").is_file)
            await client.release_concurrency_slots_with_lease(lease)
        finally:
            await client.delete_global_concurrency_limit_by_name(name)
    return (folder, "") if ours else (None, "the server keeps its leases on another machine")


def _scan(folder: Path) -> tuple[dict[str, list[Lease]], str]:
    """Limit id -> its leases; or why they cannot be read."""
    found: dict[str, list[Lease]] = {}
    try:
        for path in folder.glob("*-*-*-*-*.json"):
            try:
                data, renewed = json.loads(path.read_bytes()), path.stat().st_mtime
            except FileNotFoundError:
                continue  # released meanwhile
            holder = (data.get("metadata") or {}).get("holder") or {}
            lease = Lease(
                id=data["id"],
                expires_at=datetime.fromisoformat(data["expiration"]),
                renewed_at=datetime.fromtimestamp(renewed, UTC),
                holder=holder.get("id") if holder.get("type") == "flow_run" else None,
            )
            for limit in data["resource_ids"]:
                found.setdefault(limit, []).append(lease)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        return {}, f"a lease in {folder} cannot be read ({type(e).__name__})"
    return found, ""


@contextmanager
def freeing(folder: Path) -> Iterator[bool]:
    """Let one process of the server's machine free slots at a time; False: another one does."""
    try:
        with (folder / "runbooks-sweep.lock").open("a") as f:
            try:
                flock(f, LOCK_EX | LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
    except PermissionError:
        yield False


async def release_lease(lease_id: str) -> None:
    """Give back what one lease holds; no error if it is gone. Raises Transient."""
    async with prefect_client() as client:
        await client.release_concurrency_slots_with_lease(UUID(lease_id))


async def empty_lock(name: str) -> None:
    """Set a lock to "nobody holds it". Raises Transient."""
    async with prefect_client() as client:
        await client.update_global_concurrency_limit(
            name, GlobalConcurrencyLimitUpdate(active_slots=0)
        )


async def drop_probes(older_s: float = 600) -> int:
    """Delete the limits that a killed `lease_folder` left; how many. Raises Transient."""
    dropped = 0
    async with prefect_client() as client:
        for limit in await _limits(client):
            age = datetime.now(UTC) - limit.created if limit.created else timedelta(0)
            if limit.name.startswith(PROBES) and age.total_seconds() > older_s:
                try:
                    await client.delete_global_concurrency_limit_by_name(limit.name)
                    dropped += 1
                except ObjectNotFound:
                    pass
    return dropped
