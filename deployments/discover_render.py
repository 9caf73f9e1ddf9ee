"""The commented inventory of what was found. Pure; `parse_stack` reads every text it makes."""

from deployments.discover_found import TITLES, Found, Inventory
from deployments.discover_service import service_lines
from deployments.discover_yaml import comment, flow_map, scalar, slug_of

EXAMPLE = """\
name: my-platform
services:
  chat:
    url: http://127.0.0.1:8000
    runtime: {kind: docker, container: vllm}
    ladder: {max_model_len: [16384, 12288, 8192]}
"""
"""The smallest inventory that works."""
REMOTE = "engine"
"""Name under `docker_hosts` of an engine that is not the default one."""
_DEFAULT_ENGINE = "unix:///var/run/docker.sock"
_MOST_LISTED = 60


def nothing_found(inventory: Inventory) -> str:
    """Why there is no inventory to write, and the smallest one that works."""
    if inventory.problem:
        said = f"{inventory.problem}\nAnother engine: --host ssh://USER@HOST; a rootless one: "
        said += "--host unix:///run/user/UID/docker.sock"
    elif not inventory.found:
        said = f"no containers on {inventory.engine}, not even stopped ones"
    else:
        names = ", ".join(_listed(f) for f in inventory.found[:10])
        said = (
            f"{len(inventory.found)} container(s) on {inventory.engine}, and none that can be "
            f"written as a service (vLLM, LiteLLM, Qdrant, Open WebUI with an address): {names}"
        )
    return (
        f"nothing to write: {said}\n\n"
        "An inventory may as well be written by hand. The smallest that works, as stack.yaml:\n\n"
        + "".join(f"  {line}\n" for line in EXAMPLE.splitlines())
        + "\nEvery key: docs/stack.md. Then: runbooks apply stack.yaml --check"
    )


def service_names(inventory: Inventory) -> dict[str, str]:
    """Container -> name of its service, all different."""
    names: dict[str, str] = {}
    for found in inventory.services:
        names[found.container] = slug_of(found.container, found.kind, list(names.values()))
    return names


def render(found: Inventory, name: str) -> str:
    """The text of `stack.yaml`: what `runbooks apply` takes unchanged.

    No environment value and no argument stands in it but vLLM's serving fields; keys are
    references.

    Args:
        found: with at least one service.
        name: of the stack, a slug.

    Raises:
        ValueError: there is no service; an inventory needs one.
    """
    if not found.services:
        raise ValueError("an inventory needs at least one service")
    lines = _head(found, name)
    engine = "local" if found.engine == _DEFAULT_ENGINE else REMOTE
    if engine != "local":
        lines += ["docker_hosts:", f"  {engine}: {{base_url: {scalar(found.engine)}}}", ""]
    lines.append("services:")
    names, files, keys = service_names(found), set[str](), set[str]()
    machine = slug_of(found.machine.partition(".")[0], "machine") if found.local else ""
    for one in found.services:
        lines += service_lines(one, names, found, engine, machine, files, keys)
        lines.append("")
    lines += _hosts(found, machine)
    lines += _server(found, "prometheus", "where metrics are asked for")
    lines += _server(found, "alertmanager", "where firing alerts are asked for")
    lines += [
        "# Where results and calls for a person go; the token is a reference, never itself:",
        "# slack: {token: '${SLACK_BOT_TOKEN}', channel: '#llm-alerts'}",
        "",
    ]
    lines += _others(found)
    return "\n".join(lines).rstrip("\n") + "\n"


def _head(found: Inventory, name: str) -> list[str]:
    count = len(found.found)
    return [
        comment(f"Written by `runbooks init` from {count} container(s) of {found.engine}."),
        "# Read it, edit it, then: runbooks apply stack.yaml; runbooks doctor --stack " + name,
        "# Every key: docs/stack.md. Nothing is changed on any service without an approval",
        "# (autonomy: approve) until you write `auto`.",
        f"name: {scalar(name)}",
        f"timezone: {scalar(found.timezone)}",
        "# true: the daily check and the other scheduled procedures run.",
        "schedules: false",
        "",
    ]


def _hosts(found: Inventory, machine: str) -> list[str]:
    if not found.local:
        argv = f"[ssh, {scalar('USER@' + found.machine)}, runbooks, reading]"
        return [
            "# That machine's GPUs, processors and disks, with this product installed there:",
            f"# hosts: {{gpu-1: {{kind: command, argv: {argv}, disks: [/]}}}}",
            "",
        ]
    lines = ["# This machine: its processors, memory and disks are part of the daily check."]
    values: dict[str, object] = {"kind": "local", "disks": ["/"]}
    if found.gpus:
        kinds = ", ".join(f"{g.name} ({g.vram_gib:g} GiB)" for g in found.gpus)
        lines.append(comment(f"GPUs: {kinds}"))
    else:
        values["gpus"] = False
        lines.append(comment(f"No GPU to look at: {found.gpu_problem}"))
    return [*lines, "hosts:", f"  {scalar(machine)}: {flow_map(values)}", ""]


def _server(found: Inventory, kind: str, what: str) -> list[str]:
    """The section of Prometheus or Alertmanager; of several, the first that runs."""
    all_of = [f for f in found.found if f.kind == kind and f.url]
    usable = sorted(all_of, key=lambda f: (not f.running, not f.answered))
    if not usable:
        return [
            f"# No {kind.title()} was found; {what}:",
            f"# {kind}: {{url: 'http://HOST:{9090 if kind == 'prometheus' else 9093}'}}",
            "",
        ]
    first, *more = usable
    lines = [comment(f"{what[0].upper()}{what[1:]}: container {first.container}, by {first.how}.")]
    if not first.running:
        lines.append(comment(f"It is down just now ({first.state})."))
    lines += [comment(f"There is another: {f.container}, {f.url}") for f in more]
    if first.address and first.address.note:
        lines.append(comment(f"url: {first.address.note}"))
    values = {"url": first.url} | ({"tls_verify": False} if _https(first) else {})
    return [*lines, f"{kind}: {flow_map(values)}", ""]


def _https(found: Found) -> bool:
    return found.url.startswith("https:")


def _others(found: Inventory) -> list[str]:
    """Comments on the containers that are no service here."""
    written = {f.container for f in found.services}
    lines: list[str] = []
    for f in found.of("node-exporter", "dcgm-exporter"):
        lines.append(
            comment(
                f"{TITLES[f.kind]}: {f.container}. Another machine with one can be read through "
                "Prometheus: hosts, kind: prometheus."
            )
        )
    unplaced = [f for f in found.of("vllm", "litellm", "qdrant", "open-webui")]
    for f in (f for f in unplaced if f.container not in written):
        if f.address:
            why = f"its address {f.url} is that of another service above"
        elif f.running:
            why = "no port of it is published; publish one, then run init again"
        else:
            why = "it is down and no port of it is declared; start it, then run init again"
        lines.append(comment(f"Not written: {_listed(f)}, {TITLES[f.kind]} by {f.how}: {why}."))
    for f in (f for f in found.of("prometheus", "alertmanager") if not f.address):
        lines.append(comment(f"Not written: {_listed(f)}, {TITLES[f.kind]}: no port is published."))
    unknown = found.of("other")
    if unknown:
        lines.append("# Not recognised; one that answers over HTTP may be added with engine: http:")
    lines += [comment(f"  {_listed(f)}") for f in unknown[:_MOST_LISTED]]
    if len(unknown) > _MOST_LISTED:
        lines.append(f"#   ... and {len(unknown) - _MOST_LISTED} more: docker ps -a")
    return lines


def _listed(found: Found) -> str:
    ports = f", ports {' '.join(found.ports)}" if found.ports else ""
    state = "" if found.running else f", {found.state}"
    said = f", {found.how}" if found.kind == "other" and found.how else ""
    return f"{found.container} ({found.image}{ports}{state}{said})"
