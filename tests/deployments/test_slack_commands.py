"""`/runbook ...`: read as it was meant, allowed to whom the inventory allows it, done once."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.states import Completed

from blocks.errors import Permanent
from blocks.incidents import Ended, Opened, add, open_incident, read_incident
from blocks.people import PeopleSpec
from blocks.windows import Window
from deployments.gateway.slack_freeze import _changed, freeze
from deployments.gateway.slack_line import lasting, read, wanted
from deployments.gateway.slack_procedures import names
from deployments.gateway.slack_words import Told, quoted
from deployments.sandbox.slack_server import SlackServer
from flows.decisions.finding import Finding
from flows.platform_report import PlatformReport
from flows.report import Report
from tests.deployments.slack_support import World, world
from tests.flows.support import until

# ---- the words, without any server ----


@pytest.mark.parametrize(
    ("text", "verb", "words"),
    [
        ("", "menu", ()),
        ("  status  a b ", "status", ("a", "b")),
        ("STATUS", "status", ()),
        ("check-platform", "run", ("check-platform",)),
        ("check_platform dry_run=true", "run", ("check-platform", "dry_run=true")),
        ("freeze 2h it’s on fire", "freeze", ("2h", "it's", "on", "fire")),
        ("freeze 2h “all of it”", "freeze", ("2h", "all of it")),
        ("why a &amp; b", "why", ("a", "&", "b")),
        ("?", "help", ()),
    ],
)
def test_a_command_is_read(text: str, verb: str, words: tuple[str, ...]) -> None:
    line = read(text, names())
    assert (line.verb, line.words) == (verb, words)


def test_a_stack_may_be_named_anywhere() -> None:
    assert read("stack=lab status a", names()).stack == "lab"
    line = read("run remediate-oom a stack=lab", names())
    assert (line.stack, line.words) == ("lab", ("remediate-oom", "a"))


@pytest.mark.parametrize(
    ("text", "hint"),
    [("statsu", "status"), ("remediate-omm", "remediate-oom"), ("aprove x", "approve")],
)
def test_a_typo_gets_a_suggestion(text: str, hint: str) -> None:
    with pytest.raises(Told, match=f"did you mean .*{hint}"):
        read(text, names())
    with pytest.raises(Told, match="did you mean check-platform"):
        wanted(("check-platfrom",), names())


def test_what_to_run() -> None:
    asked = wanted(("apply_serving", "w", "max_model_len=8192", "--dry_run=true"), names())
    assert (asked.procedure, asked.service) == ("apply-serving", "w")
    assert asked.values == {"max_model_len": "8192", "dry_run": "true"}
    for words in (("remediate-oom", "a", "b"), ("remediate-oom", "x=1", "x=2"), ()):
        with pytest.raises(Told):
            wanted(words, names())
    with pytest.raises(Told, match="key=value"):
        wanted(("remediate-oom", "a;b=1"), names())


def test_how_long_a_freeze_lasts() -> None:
    assert lasting(("90m", "a", "b")) == (timedelta(minutes=90), "a b")
    assert lasting(("14d", "x")) == (timedelta(days=14), "x")
    bad = (("2h",), (), ("x", "r"), ("0m", "r"), ("15d", "r"), ("99999d", "r"), ("-2h", "r"))
    for words in bad:
        with pytest.raises(Told, match="freeze"):
            lasting(words)


@given(st.text(max_size=300))
def test_no_text_breaks_the_reading(text: str) -> None:
    try:
        line = read(text, names())
        if line.verb == "run":
            wanted(line.words, names())
        elif line.verb == "freeze":
            lasting(line.words)
    except Told as e:
        assert "<!" not in str(e) and len(str(e)) < 3000
    assert len(quoted(text)) < 1600 and quoted(text).count("`") == 2


# ---- with Slack's stand-in and a real Prefect server ----


@pytest.fixture
async def slack(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SlackServer]:
    async with SlackServer() as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
async def place(
    prefect_server: Any, home: Path, tmp_path: Path, slack: SlackServer
) -> AsyncIterator[World]:
    async with world(tmp_path, slack, "apply-serving", "check-platform") as made:
        yield made


async def test_from_the_command_over_the_form_to_the_run(place: World) -> None:
    slack = place.slack
    await place.type("run apply-serving wintermute")
    form = await place.form()
    ack = await slack.submit(form, {"change.max_model_len": "many"}, user="U1")
    assert ack.payload["response_action"] == "errors" and not ack.faults
    assert "no whole number" in form.errors["change.max_model_len"]
    ack = await slack.submit(form, {"change.max_model_len": "0"}, user="U1")
    assert form.errors and await place.runs() == []
    ack = await slack.submit(form, {"change.max_model_len": "8192"}, user="U1")
    assert ack.acked and not ack.payload.get("errors")
    answer = await place.told("Started", "apply-serving", "`wintermute`")
    [run] = await place.runs()
    assert str(run.id)[:8] in answer.words
    assert run.parameters["change"] == {"max_model_len": 8192}
    assert (run.parameters["stack"], run.parameters["service"]) == (place.spec.name, "wintermute")
    options = run.parameters["options"]
    assert (options["actor"], options["source"], options["approval"]) == ("ada", "slack", "")
    assert {"actor:ada", "source:slack", "service:wintermute"} <= set(run.tags)
    # Slack, or an impatient finger, sends the same form again.
    form.open = True
    await slack.submit(form, {"change.max_model_len": "8192"}, user="U1")
    await place.told("was started already")
    assert len(await place.runs()) == 1


async def test_a_command_with_everything_is_confirmed_and_run_once(place: World) -> None:
    asked = await place.ask("check-platform dry_run=true", "plans only")
    assert await place.runs() == []
    await asyncio.gather(*(place.slack.click(asked, "start", user="U1") for _ in range(3)))
    await place.told("tarted", "check-platform")  # each answer takes the place of the one before
    [run] = await place.runs()
    assert run.parameters["options"]["dry_run"] is True
    # Asked for anew it is another wish.
    again = await place.ask("check-platform", "waits for it")
    await place.slack.click(again, "start", user="U1")
    for _ in range(600):
        if len(await place.runs()) == 2:
            return
        await asyncio.sleep(0.1)
    raise AssertionError("the second wish started nothing")


async def test_who_may_not_is_told_why_and_it_is_kept(place: World) -> None:
    said = await place.ask("check-platform", "needs the role", user="U3")
    assert "operator" in said.words and "people.members.NAME.slack: U3" in said.words
    await place.ask("freeze 2h because", "You may not", "freeze", user="U3")
    assert "Commands are not taken" in (await place.ask("", "use <#C1>", channel="C2")).words
    assert all(not m.mentions or m.mentions == ["<#C1>"] for m in place.slack.ephemerals)
    assert place.slack.messages() == []  # nothing of it was public

    def kept() -> list[dict[str, Any]]:
        trail = [json.loads(line) for line in place.audit().splitlines()]
        return [r for r in trail if r["kind"] == "access" and not r["allowed"]]

    await until(lambda: len(kept()) == 3)
    refused = sorted(kept(), key=lambda r: -len(r["who"]))
    assert [r["who"] for r in refused] == ["slack:U3", "slack:U3", "ada"]
    assert {r["asked"] for r in refused[:2]} > {"/runbook check-platform"}
    assert refused[2]["channel"] == "C2"
    assert (await place.stored()).freeze == () and await place.runs() == []


async def test_a_group_gives_a_role(place: World) -> None:
    place.slack.groups["S1"] = ["U3"]
    await place.ask("check-platform", "waits for it", user="U3")


async def test_typing_an_approval_or_another_name_is_refused(place: World) -> None:
    for words in ("approval=yes", "actor=bob", "options.approval=yes", "source=cli"):
        await place.ask(f"check-platform {words}", "has no parameter", words.partition("=")[0])
    assert await place.runs() == []


async def test_what_is_wrong_is_said_and_mentions_nobody(place: World) -> None:
    await place.ask("check-platfrom", "did you mean check-platform?")
    await place.ask("run remediate-omm", "did you mean remediate-oom")
    await place.ask("status wintermut", "did you mean wintermute?")
    await place.ask("apply-serving wintermute max_model_len=lots", "no whole number")
    await place.ask("why zzz", "is no run")
    await place.ask("why 00000000", "There is no run")
    await place.ask("ack 00000000", "There is no incident")
    await place.ask("statsu <!channel> `x`", "did you mean status")
    await place.ask(f"run {'x' * 1500}", "There is no procedure")
    assert not any(m.mentions for m in place.slack.ephemerals)


async def test_status_says_unknown_what_it_cannot_know(place: World) -> None:
    said = await place.ask("status", "now:", "wintermute")
    assert "*broken*" in said.words or "*unknown*" in said.words
    assert "*healthy*" not in said.words


async def test_freezes_of_two_at_once_both_hold(place: World) -> None:
    kept = Window.model_validate({"start": "02:00", "end": "03:00", "reason": "the file's"})
    from deployments.bootstrap import register

    place.spec = place.spec.model_copy(update={"freeze": (kept,)})
    await register(place.spec)
    await asyncio.gather(
        place.type("freeze 2h release <!here>"), place.type("freeze 1h a second one")
    )
    await place.told("is frozen", "release")
    await place.told("is frozen", "a second one")
    now = datetime.now(UTC)
    windows = (await place.stored()).freeze
    assert len(windows) == 3 and windows[0] == kept
    assert all(w.covers(now) and not w.covers(now + timedelta(hours=3)) for w in windows[1:])
    assert {w.reason for w in windows[1:]} == {
        "release <!here> (by ada, from slack)",
        "a second one (by ada, from slack)",
    }
    said = await place.ask("unfreeze", "Ended")
    assert said.words.count("Ended") == 2 and not said.mentions
    assert (await place.stored()).freeze == (kept,)
    await place.ask("unfreeze", "No freeze from Slack was on")
    assert place.audit().count('"what":"freeze"') == 2


async def test_a_freeze_does_not_undo_what_is_applied_meanwhile(place: World) -> None:
    """An approver is revoked between the freeze's reading and its writing."""
    from deployments.bootstrap import register

    revoked = place.spec.model_copy(update={"people": PeopleSpec()})
    assert (await place.stored()).people != revoked.people
    windows: tuple[Window, ...] = ()

    def change(there: tuple[Window, ...]) -> tuple[Window, ...]:
        thread = Thread(target=copy_context().run, args=(asyncio.run, register(revoked)))
        thread.start()
        thread.join()
        return windows

    now = datetime.now(UTC).replace(microsecond=0)
    until = now + timedelta(hours=1)
    windows = (Window.model_validate({"from": now, "until": until, "reason": "release"}),)
    assert await _changed(place.spec.name, change) == windows
    stored = await place.stored()
    assert (stored.people, stored.freeze) == (revoked.people, windows)


async def test_old_freezes_do_not_pile_up(place: World) -> None:
    old = Window.model_validate(
        {
            "from": "2020-01-01T00:00:00Z",
            "until": "2020-01-02T00:00:00Z",
            "reason": "x (by a, from slack)",
        }
    )
    from deployments.bootstrap import register

    await register(place.spec.model_copy(update={"freeze": (old,)}))
    await freeze(place.spec.name, timedelta(hours=1), "new", "ada")
    assert [w.reason for w in (await place.stored()).freeze] == ["new (by ada, from slack)"]


async def opened(world: World, **more: Any) -> str:
    one = Opened.model_validate(
        {
            "id": uuid4().hex[:8],
            "stack": world.spec.name,
            "service": "wintermute",
            "severity": "P1",
            "title": "it is <!channel> down",
            "source": "alert",
            "at": datetime.now(UTC),
            **more,
        }
    )
    assert await open_incident(one)
    return one.id


async def test_an_incident_is_acknowledged_once(place: World) -> None:
    incident = await opened(place)
    await place.ask(f"ack {incident}", "You have")
    found = await read_incident(incident)
    assert found and found.acknowledged and found.acknowledged.by == "ada"
    await place.ask(f"ack {incident}", "acknowledged already", "`ada` has it")
    await add(incident, Ended(by="ada", how="closed", at=datetime.now(UTC)))
    await place.ask(f"ack {incident}", "is over already")
    elsewhere = await opened(place, stack="another")
    await place.ask(f"ack {elsewhere}", "There is no incident")
    assert (await read_incident(elsewhere)).acknowledged is None  # type: ignore[union-attr]


async def finished(world: World, record: Any) -> str:
    """A run that left this record."""
    async with get_client() as client:
        deployment = await client.read_deployment_by_name("check-platform/check-platform")
        run = await client.create_flow_run_from_deployment(
            deployment.id, tags=[f"stack:{world.spec.name}"], state=Completed()
        )
        data = {**record.model_dump(mode="json"), "run_id": str(run.id)}
        await client.create_artifact(
            ArtifactCreate(
                key=f"{record.procedure}-data",
                type="result",
                data=json.dumps(data),
                flow_run_id=run.id,
            )
        )
    return str(run.id)


async def test_the_menu_says_what_waits_and_what_the_last_check_found(place: World) -> None:
    await place.ask("", "never checked", "Open incidents* none", "approval* none")
    bad = Finding(
        check="decoding",
        subject="wintermute",
        status="fail",
        evidence="dead <!here>",
        suggests="remediate-oom",
    )
    checked = PlatformReport(
        procedure="check-platform",
        stack=place.spec.name,
        run_id="r",
        actor="ada",
        source="cli",
        started_at=datetime.now(UTC),
        duration_s=1,
        verdict="failed",
        message="1 failed",
        findings=(bad,),
    )
    run = await finished(place, checked)
    incident = await opened(place)
    async with place.waits() as (one, _):
        menu = await place.ask("", "as of the last check", incident, one.digest, user="U2")
    assert "`wintermute` failed" in menu.words and not menu.mentions
    labels = {b["text"]["text"] for b in menu.buttons.values()}
    assert {"Acknowledge", "Approve", "Reject", "remediate-oom wintermute"} <= labels
    why = await place.ask(f"why {run[:8]}", "FAILED", "decoding")
    assert not why.mentions and run in why.words  # its link


async def test_why_tells_the_record_of_a_run(place: World) -> None:
    told = Report(
        procedure="remediate-oom",
        stack=place.spec.name,
        service="wintermute",
        run_id="r",
        actor="ada",
        source="alert",
        started_at=datetime.now(UTC),
        duration_s=3,
        verdict="blocked",
        blocked_by="frozen",
        message="nothing was done",
        seen="broken: exited",
        notes=("a <!channel> note",),
        next_step="wait",
    )
    run = await finished(place, told)
    said = await place.ask(f"why {run[:8]}", "BLOCKED", "(frozen)", "broken: exited", "wait")
    assert not said.mentions
    async with get_client() as client:
        await client.update_flow_run(run, tags=["stack:another"])  # type: ignore[arg-type]
    await place.ask(f"why {run}", "There is no run")


async def test_a_busy_slack_is_asked_again_and_one_that_is_away_stops_nothing(
    place: World,
) -> None:
    place.slack.fail("response_url", status=429, retry_after_s=0, times=1)
    asked = await place.ask("check-platform", "waits for it")
    place.slack.fail("response_url", status=503)
    await place.slack.click(asked, "start", user="U1")
    for _ in range(600):
        if await place.runs():
            break
        await asyncio.sleep(0.1)
    assert len(await place.runs()) == 1  # nobody could be told, and it runs all the same
    place.slack.heal()


async def test_no_people_means_look_but_do_not_touch(
    prefect_server: Any, home: Path, tmp_path: Path, slack: SlackServer
) -> None:
    async with world(tmp_path, slack, people={}) as place:
        await place.ask("help", "/runbook", channel="C2")
        await place.ask("freeze 2h because", "gives it to nobody", "people.roles.operator")
        await place.ask("check-platform", "gives it to nobody")
        assert await place.runs() == []


def test_too_long_a_command_is_refused() -> None:
    with pytest.raises(Permanent, match="too long"):
        read("x" * 5000, names())
