"""What an operator sees in the real Prefect UI, in a real browser without the Internet."""

import os
import subprocess
from urllib.parse import urlsplit

import pytest
from ruamel.yaml import YAML

from tests.conftest import free_port, missing
from tests.real import chromium
from tests.real.upped import RUNBOOKS, Upped, failed_vllm

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]

# Prefect's UI asks this host for its analytics' configuration before it has read that analytics
# are off; it sends no events then, and renders without an answer.
KNOWN_ELSEWHERE = {"sr-client-cfg.amplitude.com"}


@pytest.fixture(scope="module")
def up(tmp_path_factory):
    """A platform on which one failure was healed."""
    if not chromium.find():
        missing("chromium", "no chromium on PATH")
    folder = tmp_path_factory.mktemp("ui")
    with Upped(folder / "home", free_port()) as up:
        up.ready()
        box, stack = failed_vllm(folder / "box")
        try:
            words = ("run", "remediate-oom", "--stack", str(stack), "--service", "wintermute")
            done = up.runbooks(*words)
            assert done.returncode == 0, done.stdout + done.stderr
            done = up.runbooks("run", "check-platform", "--stack", str(troubled(box)))
            assert done.returncode == 1, done.stdout + done.stderr
            up.terminal = done.stdout
            yield up
        finally:
            box.stop_all()


@pytest.fixture(scope="module")
def browser(up, tmp_path_factory):
    with chromium.Browser(tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser


@pytest.fixture(scope="module")
def base(up):
    """The default UI's address: V2 has a path of its own, and links to `/` paths open V1."""
    settings = up.api("/ui-settings")
    return up.ui + settings[f"{settings['default_ui']}_base_url"].rstrip("/")


def troubled(box):
    """A stack file of the healed server beside a frozen one, on a machine with a hot GPU."""
    box.add_vllm("armitage", params={"frozen": True, "startup_s": 0.1})
    box.start("armitage")
    box.wait_serving("armitage")
    box.host(
        "motoko",
        gpus=[{"temperature_c": 91}],
        disks=[
            {"path": "/", "used_share": 0.55, "free_gib": 207.0},
            {"path": "/models", "used_share": 0.93, "free_gib": 61.0},
        ],
    )
    document = box.stack("lab")
    for service in document["services"].values():
        service["policy"] = {"decode_timeout_s": 1}
        service["host"] = "motoko"
    file = box.dir / "lab.yaml"
    with file.open("w") as f:
        YAML().dump(document, f)
    return file


def the_one(up, kind, ready=lambda row: True):
    return next(row for row in up.api(f"/api/{kind}/filter", {}) if ready(row))


def deployment(up):
    return the_one(
        up, "deployments", lambda d: d["entrypoint"] == "flows.remediate_oom.remediate_oom"
    )


def test_front_page_leads_to_the_default_ui(up, browser, base):
    browser.open(up.ui, "Deployments", "Blocks")
    assert browser.run("location.href").startswith(base)


def test_deployment_tells_what_it_does(up, browser, base):
    found = deployment(up)
    browser.open(f"{base}/deployments/deployment/{found['id']}?tab=Description")
    browser.wait_text("Diagnose a vLLM server that ran out of memory", "undo what did not help")


def test_custom_run_is_a_form_with_help(up, browser, base):
    browser.open(f"{base}/deployments/deployment/{deployment(up)['id']}/run", "Parameters")
    browser.wait_text(
        "Registered stack, or the path of its YAML file.",
        "Service in that stack.",
        "Plan only: look and decide, but change nothing.",
        "The digest of the plan you approve",
    )
    # dry_run is a switch, off; source a select, set to the door we came through.
    assert (
        browser.run("document.querySelector('[role=switch]').getAttribute('aria-checked')")
        == "false"
    )
    select = (
        "[...document.querySelectorAll('button[aria-haspopup]')]"
        ".find(e => e.innerText.trim() === 'ui')"
    )
    browser.run(f"{select}.click()")
    offered = "[...document.querySelectorAll('[role=option]')].map(e => e.innerText.trim())"
    browser.wait("choices", lambda: browser.run(offered))
    assert set(browser.run(offered)) >= {"cli", "ui", "schedule", "slack", "alert"}


def test_run_page_shows_tasks_by_name_and_tags(up, browser, base):
    run = the_one(up, "flow_runs", lambda r: r["name"].startswith("remediate-oom"))
    shown = browser.open(f"{base}/runs/flow-run/{run['id']}", "Passed", "8 Task runs")
    assert "remediate-oom wintermute" in shown
    browser.run("document.querySelector('[class*=tag-badge-group], header')")
    assert {"stack:sandbox", "service:wintermute", "source:cli"} <= set(run["tags"])
    assert sum(tag in shown for tag in run["tags"]) >= 3  # the rest behind "+3"
    browser.open(f"{base}/runs/flow-run/{run['id']}?tab=TaskRuns")
    browser.wait_text("read log of wintermute", "apply to wintermute", "watch wintermute")
    browser.wait_text("publish remediate-oom-record")


def test_record_shows_before_after_and_the_chart(up, browser, base):
    record = the_one(up, "artifacts", lambda a: a["key"] == "remediate-oom-record")
    browser.open(f"{base}/artifacts/artifact/{record['id']}", "Change: kept", "Cause:")
    browser.wait_text("Passed: sandbox/wintermute")
    browser.wait("the table", lambda: browser.run("!!document.querySelector('table')"))
    cells = browser.run("[...document.querySelector('table').rows].map(r => r.innerText.trim())")
    assert [row.split() for row in cells] == [
        ["field", "before", "after"],
        ["max_model_len", "16384", "8192"],
    ]
    image = "document.querySelector('img[alt=\"what the verification saw\"]')"
    browser.wait("the chart", lambda: browser.run(f"{image}?.naturalWidth") > 300)
    code = browser.run("(e => [e.scrollWidth, e.clientWidth])(document.querySelector('pre code'))")
    assert code[0] <= code[1], "the quoted log line is cut off"


def test_record_reads_the_same_in_the_other_ui(up, browser, base):
    record = the_one(up, "artifacts", lambda a: a["key"] == "remediate-oom-record")
    shown = browser.open(f"{up.ui}/artifacts/artifact/{record['id']}", "Change: kept", "Cause:")
    browser.wait("the table", lambda: browser.run("!!document.querySelector('table')"))
    assert "\\n" not in shown
    assert browser.run("document.querySelector('table').rows[1].innerText").split()[-1] == "8192"
    browser.wait(
        "the chart",
        lambda: browser.run("document.querySelector('main img, img')?.naturalWidth") > 300,
    )


def test_the_daily_check_is_read_on_one_screen(up, browser, base):
    found = the_one(up, "artifacts", lambda a: a["key"] == "check-platform-record")
    browser.resize(1440, 1100)
    browser.open(f"{base}/artifacts/artifact/{found['id']}", "Failed: lab", "do this")
    # The page is drawn more than once: what is read must be there at that moment.
    cells = "[...(document.querySelector('table')?.rows ?? [])].map(r => r.innerText)"
    rows = browser.wait("the table", lambda: browser.run(cells))
    signs = [row.split()[0] for row in rows[1:]]
    order = "✗?⚠"
    assert signs == sorted(signs, key=order.index) and signs[0] == "✗"
    assert any("armitage" in row and "no token" in row for row in rows)
    assert any("host motoko" in row and "91" in row for row in rows)
    assert "runbooks run remediate-outage --stack lab --service armitage" in "".join(rows)
    bottom = browser.run("document.querySelector('table')?.getBoundingClientRect().bottom ?? 0")
    assert bottom < 1100, "the table does not fit one screen"
    assert "decoding · armitage" in up.terminal


def test_inventory_can_be_opened(up, browser, base):
    browser.open(f"{base}/blocks", "sandbox--wintermute", "vLLM server")
    block = the_one(up, "block_documents", lambda b: b["name"] == "sandbox--wintermute")
    browser.open(f"{base}/blocks/block/{block['id']}", "vLLM server", "[16384,12288,8192]")


def test_needs_nothing_from_elsewhere(browser):
    """The last one: everything above was rendered with every other host unknown."""
    assert browser.requests
    assert {urlsplit(url).hostname for url in browser.requests_elsewhere()} <= KNOWN_ELSEWHERE


def test_pictures_of_the_readme(up, browser, base, tmp_path, monkeypatch):
    """Taken anew by RUNBOOKS_SCREENSHOT=1; else only that they can be taken."""
    monkeypatch.syspath_prepend(str(chromium.ROOT))
    from docs import screenshot

    wanted = os.environ.get("RUNBOOKS_SCREENSHOT") == "1"
    folder = screenshot.IMAGES if wanted else tmp_path
    record = the_one(up, "artifacts", lambda a: a["key"] == "remediate-oom-record")
    url = f"{base}/artifacts/artifact/{record['id']}"
    assert screenshot.record_page(browser, url, folder / "prefect-ui.png").exists()
    report = the_one(up, "artifacts", lambda a: a["key"] == "check-platform-record")
    url = f"{base}/artifacts/artifact/{report['id']}"
    assert screenshot.report_page(browser, url, folder / "daily-check.png").exists()
    shown = "\x1b[1m1\x1b[0m   it lives\n"
    if wanted:
        env = {**up.env, "COLUMNS": "80", "FORCE_COLOR": "1", "TERM": "xterm-256color"}
        env["RUNBOOKS_DEMO_HOME"] = str(tmp_path / "demo")
        done = subprocess.run(
            [RUNBOOKS, "demo", "--exit"], env=env, capture_output=True, text=True, timeout=150
        )
        assert done.returncode == 0, done.stdout + done.stderr
        shown = done.stdout
    assert screenshot.terminal(browser, shown, folder / "terminal.png").exists()
