"""A container replaced by one with other arguments, undone or finished from wherever it stopped.

The steps of `act`, each one call to the engine:

1. create `NAME.runbooks-new` with restart policy "no", and give it the old one's networks
2. the old container's restart policy -> "no"
3. stop the old one
4. old -> `NAME.runbooks-old`, new -> `NAME`
5. the new container's restart policy -> the old one's
6. start the new one

Invariants, after every step and across a restart of the engine or of the host:

- Never do two run. The new one has policy "no" until the old one is down and has policy "no"
  itself; so neither a policy nor a booting engine starts a second one. (A booting engine also
  starts what was stopped under policy "always".)
- The old one exists until `commit`, which removes it only when the new one is on stage.
- The new one is known by a label with this change's mark, wherever it stands: nothing else
  is ever removed.
"""

import contextlib
import uuid
from typing import Any

from blocks.docker_errors import Conflict
from blocks.docker_host import Engine
from blocks.docker_inspect import (
    CHANGE_LABEL,
    Doc,
    is_up,
    labels_of,
    name_of,
    networks_of,
    policy_of,
    sharing_network,
    time_of,
)
from blocks.docker_successor import NO_RESTART, edited, endpoints_of, new_body, read_config
from blocks.errors import Permanent, RunbookError, Transient, Unsafe
from blocks.models import Frozen, ServingConfig
from blocks.service import ArgumentsSource


class RecreateNote(Frozen):
    """What the journal keeps of one recreation. No argument, no environment, no secret."""

    kind: str = "recreate"
    container_id: str
    """The old container."""
    name: str
    image_id: str
    policy: dict[str, Any]
    """The old container's restart policy."""
    mark: str
    """Value of the label `CHANGE_LABEL` on the new container; unlike any other."""

    @property
    def new_name(self) -> str:
        """The new container's name until it goes on stage."""
        return f"{self.name}.runbooks-new"

    @property
    def old_name(self) -> str:
        """The old container's name once it left the stage."""
        return f"{self.name}.runbooks-old"


def prepare(
    engine: Engine,
    doc: Doc,
    source: ArgumentsSource,
    before: ServingConfig,
    after: ServingConfig,
    run_id: str,
) -> RecreateNote:
    """Check that a successor can be made and undone; the note for the journal. Changes nothing.

    Raises:
        Unsafe: `blast-radius`, another container lives in this one's network namespace.
        Permanent: the image was deleted, or the arguments are not editable.
    """
    name = name_of(doc)
    if sharing := sharing_network(doc, engine.containers()):
        raise Unsafe(
            "blast-radius",
            f"{', '.join(sharing)} share(s) the network of container {name} and would lose it; "
            "recreate them together by hand",
        )
    if engine.image_id(doc["Image"]) is None:
        raise Permanent(
            f"the image of container {name} ({doc['Image'][:19]}) was deleted: no second "
            "container can be made from it; pull or load it again"
        )
    edited(doc, source, before, after)
    return RecreateNote(
        container_id=doc["Id"],
        name=name,
        image_id=doc["Image"],
        policy=policy_of(doc),
        mark=f"{run_id}.{uuid.uuid4().hex[:12]}",
    )


def act(
    engine: Engine,
    note: RecreateNote,
    source: ArgumentsSource,
    before: ServingConfig,
    after: ServingConfig,
    stop_timeout_s: float,
) -> None:
    """Put a container with `after` in the old one's place and start it.

    Raises:
        Unsafe: `locked` (another change has begun), `drifted` (not what `prepare` saw). Then,
            and after any error of step 1, everything is as it was.
        Permanent, Transient: the engine refused or did not answer; `restore` is due.
    """
    old = _still_as_prepared(engine, note, source, before)
    tag = str(old["Config"]["Image"])
    image = tag if engine.image_id(tag) == note.image_id else note.image_id
    change = edited(old, source, before, after)
    new = engine.create(note.new_name, new_body(old, change, note.mark, image, engine.api_version))
    try:
        _complete(engine, old, new, note)
    except RunbookError:
        engine.remove(new)
        raise
    if note.policy["Name"] != "no":
        engine.set_policy(note.container_id, NO_RESTART)
    engine.stop(note.container_id, stop_timeout_s)
    _must_be_down(engine, note)
    engine.rename(note.container_id, note.old_name)
    engine.rename(new, note.name)
    if note.policy["Name"] != "no":
        engine.set_policy(new, note.policy)
    _must_be_down(engine, note)
    engine.start(new)


def _still_as_prepared(
    engine: Engine, note: RecreateNote, source: ArgumentsSource, before: ServingConfig
) -> dict[str, Any]:
    old = engine.inspect(note.container_id)
    if name_of(old) != note.name or engine.containers(change=note.mark):
        raise Unsafe(
            "locked",
            f"a change of container {note.name} has begun already: {note.container_id[:12]} is "
            f"now {name_of(old)}; undo it first",
        )
    if read_config(old, source) != before or policy_of(old) != note.policy:
        raise Unsafe("drifted", f"container {note.name} changed since the plan; plan again")
    return old


def _complete(engine: Engine, old: Doc, new: str, note: RecreateNote) -> None:
    """Give the new container the old one's networks, and check that both are what they must be.

    Engines before API 1.44 take one network when creating; the others follow here.
    """
    made = engine.inspect(new)
    wanted, has = endpoints_of(old, engine.api_version), networks_of(made)
    mode = str(old["HostConfig"].get("NetworkMode") or "")
    if not mode.startswith("container:") and mode not in ("host", "none"):
        for network in has.keys() - wanted.keys():
            engine.disconnect(new, network)
        for network in wanted.keys() - has.keys():
            engine.connect(new, network, wanted[network])
    if made["Image"] != note.image_id:
        raise Permanent(
            f"the image of container {note.name} was replaced or deleted while it was changed; "
            "nothing was changed"
        )
    now = engine.inspect(note.container_id)
    if name_of(now) != note.name:
        raise Unsafe("locked", f"another change of container {note.name} began; nothing was done")


def _must_be_down(engine: Engine, note: RecreateNote) -> None:
    if is_up(engine.inspect(note.container_id)):
        raise Transient(
            f"container {note.name} ({note.container_id[:12]}) is up although it was stopped; "
            "a second one is not started beside it"
        )


def on_stage(engine: Engine, note: RecreateNote) -> bool:
    """True when the container of this change bears the service's name and was started."""
    mine = engine.containers(change=note.mark)
    doc = engine.find(mine[0]["Id"]) if len(mine) == 1 else None
    return bool(
        doc and name_of(doc) == note.name and time_of(doc["State"].get("StartedAt")) is not None
    )


def commit(engine: Engine, note: RecreateNote) -> None:
    """Remove the old container, never its volumes. Nothing to do when it is gone.

    Raises:
        Permanent: the new container is not on stage; the old one is not removed.
    """
    if engine.find(note.container_id) is None:
        return
    if not on_stage(engine, note):
        raise Permanent(
            f"container {note.name} is not the one this change made: the former one "
            f"({note.container_id[:12]}) is kept; look: docker ps -a"
        )
    engine.remove(note.container_id)


def restore(engine: Engine, note: RecreateNote, was_running: bool, stop_timeout_s: float) -> None:
    """Bring the old container back under its name, with its policy, up or down as it was.

    Raises:
        Unsafe: `locked`, another change holds the stage; nothing was done.
        Permanent: the old container was removed by somebody (the new one stays), or a
            container made by somebody bears its name.
        Transient: the engine did not answer, or the outcome is not yet what it must be.
    """
    old, mine = engine.find(note.container_id), engine.containers(change=note.mark)
    _refuse_strangers(engine, note, {c["Id"] for c in mine})
    if old is None:
        raise Permanent(
            f"the former container of {note.name} ({note.container_id[:12]}) was removed by "
            "somebody: there is nothing to go back to"
            + (
                f"; the new one stays: {mine[0]['Names'][0].lstrip('/')}"
                if mine
                else "; create it again by hand"
            )
        )
    for item in mine:
        new = engine.find(item["Id"])
        if new and policy_of(new)["Name"] != "no":
            engine.set_policy(item["Id"], NO_RESTART)
        engine.stop(item["Id"], stop_timeout_s)
    # A kill may have cut `act` while the engine stops the old one: it still looks up, and goes
    # down later. Policy "no" while up is the sign; stopping it again waits for that end.
    unsettled = policy_of(old)["Name"] == "no" and (mine or note.policy["Name"] != "no")
    if is_up(old) and (unsettled or not was_running):
        engine.stop(note.container_id, stop_timeout_s)
    for item in mine:
        _remove_new(engine, item["Id"], stop_timeout_s)
    if name_of(old) != note.name:
        engine.rename(note.container_id, note.name)
    if policy_of(old) != note.policy:
        engine.set_policy(note.container_id, note.policy)
    if was_running:
        engine.start(note.container_id)
    _must_be_back(engine, note, was_running, old)


def _remove_new(engine: Engine, new: str, stop_timeout_s: float) -> None:
    """Stop and remove; again if a start that `act` asked for before it was killed came between."""
    for _ in range(3):
        engine.stop(new, stop_timeout_s)
        with contextlib.suppress(Conflict):
            engine.remove(new)
            return
    raise Transient(f"container {new[:12]} cannot be removed yet; undo again")


def _refuse_strangers(engine: Engine, note: RecreateNote, mine: set[str]) -> None:
    for name in (note.name, note.new_name):
        doc = engine.find(name)
        if doc is None or doc["Id"] in (note.container_id, *mine):
            continue
        if CHANGE_LABEL in labels_of(doc) and labels_of(doc)[CHANGE_LABEL] != note.mark:
            raise Unsafe(
                "locked",
                f"container {name} was made by another change ({labels_of(doc)[CHANGE_LABEL]}), "
                "which has to be undone or finished first",
            )
        if name == note.name and name_of(doc) == name:
            raise Permanent(
                f"container {name} ({doc['Id'][:12]}) was made by somebody during the change: "
                f"rename or remove it, then undo again; the former one is {note.old_name}"
            )


def _must_be_back(engine: Engine, note: RecreateNote, was_running: bool, then: Doc) -> None:
    now = engine.inspect(note.container_id)
    started = now["State"].get("StartedAt") != then["State"].get("StartedAt")
    up = is_up(now) or started
    if name_of(now) != note.name or policy_of(now) != note.policy or up != was_running:
        raise Transient(
            f"container {note.name} is not yet as it was: named {name_of(now)}, "
            f"{'up' if is_up(now) else 'down'}; undo again"
        )
