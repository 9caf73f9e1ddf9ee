"""`runbooks init`: what runs on a Docker host, as a commented inventory that `apply` accepts."""

import asyncio
import os
import socket
from pathlib import Path
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from rich.table import Table

from blocks.docker_host import DockerHostSpec
from blocks.docker_list import read_containers
from blocks.errors import Permanent, RunbookError
from blocks.litellm_text import backends
from blocks.nvml import read_gpus
from blocks.safe_file import read_bytes
from blocks.service import LitellmSource
from blocks.stack import parse_stack
from blocks.yaml_text import load_yaml
from deployments.cli_base import NOT_DONE, USAGE, err, out, plain
from deployments.discover_classify import classify, targets
from deployments.discover_found import TITLES, Device, Found, Inventory, Probe
from deployments.discover_probe import TIMEOUT_S, ask_all
from deployments.discover_render import nothing_found, render
from deployments.discover_yaml import slug_of

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


async def discover(host: DockerHostSpec, *, timeout_s: float = TIMEOUT_S) -> Inventory:
    """What runs, or ran, on one Docker Engine. Reads only, changes nothing.

    Never raises for an engine that cannot be asked: `problem` then says why.

    Args:
        host: the engine.
        timeout_s: of one GET to a container's port, seconds.
    """
    parts = urlsplit(host.base_url)
    local = parts.scheme == "unix" or parts.hostname in _LOOPBACK
    machine = socket.gethostname() if local else str(parts.hostname or "")
    known = {"engine": host.base_url, "local": local, "machine": machine}
    try:
        docs = await read_containers(host)
    except RunbookError as e:
        return Inventory(**known, problem=str(e))
    asked = await ask_all(docs, machine, local, timeout_s)
    found = [classify(doc, probes, machine) for doc, probes in zip(docs, asked, strict=True)]
    found = [_labelled(f, [p for probes in asked for p in probes], found) for f in found]
    if local:
        found = [await asyncio.to_thread(_read_proxy, f) for f in found]
    gpus, why = await asyncio.to_thread(_gpus) if local else ((), "another machine's")
    return Inventory(**known, timezone=zone(), gpus=gpus, gpu_problem=why, found=tuple(found))


def zone(localtime: Path = Path("/etc/localtime"), named: Path = Path("/etc/timezone")) -> str:
    """This machine's IANA time zone; UTC where it does not tell."""
    candidates = [os.environ.get("TZ", "").lstrip(":")]
    if localtime.is_symlink():
        candidates.append(str(localtime.readlink()).rpartition("zoneinfo/")[2])
    try:
        candidates.append(named.read_text().strip())
    except (OSError, ValueError):
        candidates.append("")
    for candidate in filter(None, candidates):
        try:
            ZoneInfo(candidate)
        except (KeyError, ValueError, OSError):
            continue
        return "UTC" if candidate in ("Etc/UTC", "Etc/UCT", "Zulu") else candidate
    return "UTC"


def init_command(output: Path, host: str, force: bool) -> int:
    """Discover, print what was found, and write the inventory; the exit code.

    0: written; 2: a file is there already, or it cannot be written, or the address is none;
    3: there is nothing to write (no engine, no permission, no container that is a service).
    """
    try:
        spec = DockerHostSpec(base_url=host)
    except ValueError:
        return _refuse(
            f"--host {host}: no Docker address; write unix:///var/run/docker.sock, "
            "ssh://USER@HOST or tcp://HOST:2376"
        )
    if urlsplit(host).password:
        return _refuse("--host has a password in it; use ssh keys or TLS files")
    if output.exists() and not force:
        return _refuse(f"{output} exists already; choose another with -o, or add --force")
    if not output.resolve().parent.is_dir():
        return _refuse(f"{output}: its folder is not there; mkdir {output.parent}")
    found = asyncio.run(discover(spec))
    if not found.services:
        err.print(nothing_found(found), markup=False, highlight=False, soft_wrap=True)
        return NOT_DONE
    name = slug_of(found.machine.partition(".")[0], "platform")
    text = render(found, name)
    try:
        parse_stack(text, str(output))
    except Permanent as e:
        return _refuse(f"this is a bug, and nothing was written: {e}")
    try:
        with output.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return _refuse(f"{output} exists already; choose another with -o, or add --force")
    except OSError as e:
        return _refuse(f"{output}: cannot be written: {e.strerror}")
    out.print(_table(found))
    out.print(f"wrote {plain(str(output))}: stack [bold]{name}[/]; read it first", highlight=False)
    out.print(
        f"next: runbooks apply {output}; runbooks doctor --stack {name}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    return 0


def _refuse(message: str) -> int:
    err.print(f"[red]error:[/] {plain(message)}", highlight=False, soft_wrap=True)
    return USAGE


def _table(inventory: Inventory) -> Table:
    table = Table("name", "what", "recognised by", "url", box=None, header_style="bold")
    table.columns[0].overflow = table.columns[3].overflow = "fold"
    for f in sorted(inventory.found, key=lambda f: f.kind == "other"):
        state = "" if f.running else f" ({f.state})"
        table.add_row(*(plain(x) for x in (f.container, TITLES[f.kind] + state, f.how, f.url)))
    return table


def _labelled(found: Found, probes: list[Probe], all_found: list[Found]) -> Found:
    """With its labels in the first Prometheus here that scrapes it."""
    if found.kind not in ("vllm", "litellm"):
        return found
    servers = [f.url for f in all_found if f.kind == "prometheus" and f.running]
    for probe in probes:
        if probe.address.url in servers:
            for place, labels in targets(probe):
                if place in found.names and labels.get("instance"):
                    return found.model_copy(update={"labels": labels})
    return found


def _read_proxy(found: Found) -> Found:
    """With what the config file of a LiteLLM proxy says, where it can be read here."""
    if found.kind != "litellm" or not found.file:
        return found
    try:
        bases = backends(LitellmSource(kind="litellm", path=found.file))
        data = load_yaml(read_bytes(found.file).decode(errors="replace"), found.file)
    except RunbookError:
        return found.model_copy(update={"file_note": "could not be read from here just now"})
    general = data.get("general_settings") if isinstance(data, dict) else None
    key = isinstance(general, dict) and bool(general.get("master_key"))
    return found.model_copy(
        update={
            "backends": {model: base for model, base in bases.items() if base},
            "wants_key": found.wants_key or key,
            "key_why": found.key_why or ("its config file has a master_key" if key else ""),
        }
    )


def _gpus() -> tuple[tuple[Device, ...], str]:
    """This machine's GPUs, or why there are none."""
    said = read_gpus()
    devices = [
        Device(name=g.name, vram_gib=round(g.memory_total_gib, 1))
        for g in said.gpus or ()
        if g.name and g.memory_total_gib
    ]
    return tuple(devices), "" if devices else "; ".join(said.problems)[:200] or "no GPU"
