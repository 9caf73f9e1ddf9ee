"""The copy in S3, against a real S3 API: once, never over another, and compared."""

import logging
import shutil
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer
from pydantic import ValidationError

from blocks.audit_bucket import Bucket, Piece
from blocks.audit_chain import Link
from blocks.audit_log import AuditLog
from blocks.audit_spec import S3Spec
from blocks.audit_store import Copied, copy_trail
from blocks.errors import Permanent, Transient
from tests.blocks.test_audit_log import Clock
from tests.conftest import free_port

pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str) -> Iterator[Any]:
    made = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    made.create_bucket(Bucket="trail")
    yield made
    for one in made.list_objects_v2(Bucket="trail").get("Contents", []):
        made.delete_object(Bucket="trail", Key=one["Key"])
    made.delete_bucket(Bucket="trail")
    made.close()


@pytest.fixture
def spec(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Spec:
    monkeypatch.setenv("TEST_S3_KEY", "key-id")
    monkeypatch.setenv("TEST_S3_SECRET", "not-to-be-seen")
    return S3Spec(
        bucket="trail",
        prefix="prod/audit",
        endpoint_url=endpoint,
        access_key="${TEST_S3_KEY}",
        secret_key="${TEST_S3_SECRET}",
        timeout_s=5,
    )


@pytest.fixture
def trail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AuditLog:
    """Two days that are over, and one that is not."""
    clock, log = Clock(monkeypatch), AuditLog(tmp_path / "audit")
    for number in range(3):
        clock.forward(days=min(number, 1))
        log.append("access", {"actor": "ada"})
    return log


async def made(spec: S3Spec, log: AuditLog) -> Copied:
    shot = log.snapshot()
    return await copy_trail(spec, shot, log.verify(shot=shot))


async def copied(spec: S3Spec, log: AuditLog) -> tuple[int, int]:
    """Written and compared; nothing does not fit."""
    found = await made(spec, log)
    assert not found.altered
    return found.new, found.there


async def altered(spec: S3Spec, log: AuditLog) -> str:
    """What does not fit; nothing was written."""
    found = await made(spec, log)
    assert found.new == 0
    return found.altered


def objects(client: Any) -> dict[str, bytes]:
    found = client.list_objects_v2(Bucket="trail").get("Contents", [])
    return {o["Key"]: client.get_object(Bucket="trail", Key=o["Key"])["Body"].read() for o in found}


async def test_days_are_copied_once(spec: S3Spec, client: Any, trail: AuditLog) -> None:
    assert await copied(spec, trail) == (3, 0)
    hashes = [r["hash"] for r in trail.records()]
    found = objects(client)
    assert list(found) == [
        "prod/audit/2026/12/30.jsonl",
        "prod/audit/2026/12/31.jsonl",
        f"prod/audit/open/2027-01-01/0000000003-{hashes[2]}.jsonl",
    ]
    for key, body in found.items():
        assert body in [p.read_bytes() for p, _ in trail.snapshot().files], key
    assert await copied(spec, trail) == (0, 3)
    assert objects(client) == found


async def test_the_present_day_is_copied_again_under_another_key(
    spec: S3Spec, client: Any, trail: AuditLog
) -> None:
    await copied(spec, trail)
    shot = trail.snapshot()
    verified = trail.verify(shot=shot)
    trail.append("access", {"actor": "later"})
    assert await copy_trail(spec, shot, verified) == (0, 3, ""), "as it was when it was verified"
    assert await copied(spec, trail) == (1, 3)
    assert await copied(spec, trail) == (0, 4)
    keys = [k for k in objects(client) if "/open/" in k]
    assert len(keys) == 2 and [k.split("/")[-1][:10] for k in keys] == ["0000000003", "0000000004"]


async def test_another_content_is_an_error_and_stays(
    spec: S3Spec, client: Any, trail: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole local trail written anew: its own chain is whole, the copy says otherwise."""
    await copied(spec, trail)
    before = objects(client)
    clock, forged = Clock(monkeypatch), AuditLog(tmp_path / "forged")
    for _ in range(3):
        forged.append("access", {"actor": "eve"})
        clock.forward(days=1)
    assert forged.verify().first_broken is None
    said = await altered(spec, forged)
    assert said.startswith("s3://trail/prod/audit/2026/12/30.jsonl is there with another content")
    assert objects(client) == before


async def test_a_trail_that_was_removed_and_begun_anew_does_not_fit(
    spec: S3Spec, client: Any, trail: AuditLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All records written anew into a later day: no key of it is there yet."""
    await copied(spec, trail)
    before, clock = objects(client), Clock(monkeypatch)
    clock.forward(days=9)
    forged = AuditLog(tmp_path / "forged")
    assert "12/30.jsonl is there, and this machine has no such day" in await altered(spec, forged)
    forged.extend("access", [{"actor": "eve"}] * 5)
    assert forged.verify().first_broken is None
    assert "12/30.jsonl is there, and this machine has no such day" in await altered(spec, forged)
    assert objects(client) == before


@pytest.mark.parametrize("length", [64, 12])
async def test_a_present_day_that_was_written_anew_does_not_fit(
    spec: S3Spec, client: Any, trail: AuditLog, tmp_path: Path, length: int
) -> None:
    """The days that are over are as they were: only the name with record and hash says it."""
    await copied(spec, trail)
    ((key, body),) = [(k, b) for k, b in objects(client).items() if "/open/" in k]
    name, _, digest = key.removesuffix(".jsonl").rpartition("-")
    if length < 64:
        client.delete_object(Bucket="trail", Key=key)
        key = f"{name}-{digest[:length]}.jsonl"
        client.put_object(Bucket="trail", Key=key, Body=body)
    assert (await made(spec, trail)).altered == ""

    def without_the_last(folder: str, *actors: str) -> AuditLog:
        log = AuditLog(tmp_path / folder)
        shutil.copytree(trail.folder, log.folder)
        shutil.rmtree(log.folder / "2027")
        records = list(log.records())
        log._set_head(Link(2, records[-1]["hash"]))
        for actor in actors:
            log.append("access", {"actor": actor})
        assert log.verify().first_broken is None
        return log

    before = objects(client)
    wrong = await altered(spec, without_the_last("other", "eve", "eve"))
    assert key in wrong and "record 3 of this machine is another one" in wrong
    wrong = await altered(spec, without_the_last("less"))
    assert key in wrong and "record 3 of this machine is gone" in wrong
    assert objects(client) == before


async def test_what_no_trail_wrote_is_nobodys_claim(
    spec: S3Spec, client: Any, trail: AuditLog
) -> None:
    """A prefix below this one, of another machine."""
    key = "prod/audit/gpu-2/2026/12/30.jsonl"
    client.put_object(Bucket="trail", Key=key, Body=b"of another")
    assert await copied(spec, trail) == (3, 0)
    below = spec.model_copy(update={"prefix": "prod/audit/gpu-2"})
    assert "another content" in await altered(below, trail)


async def test_a_line_that_a_kill_cut_short_is_not_copied(
    spec: S3Spec, client: Any, trail: AuditLog
) -> None:
    """It is moved aside by the next append; the copy of that moment must fit after it too."""
    path = trail.snapshot().files[-1][0]
    whole = path.read_bytes()
    with path.open("ab") as f:
        f.write(b'{"torn')
    assert trail.verify().torn and await copied(spec, trail) == (3, 0)
    assert whole in objects(client).values()
    path.write_bytes(whole)  # killed between the cut and its record
    assert await copied(spec, trail) == (0, 3)
    with path.open("ab") as f:
        f.write(b'{"torn')
    trail.append("access", {"actor": "next"})
    assert await copied(spec, trail) == (1, 3)


async def test_the_write_itself_refuses_what_appeared_meanwhile(
    spec: S3Spec, client: Any, trail: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two exports at once: between the look and the write the other one wrote."""
    first, looks = Bucket.same, []

    def look(self: Bucket, piece: Piece) -> bool | None:
        looks.append(piece.key)
        if len(looks) > 1:
            return first(self, piece)
        client.put_object(Bucket="trail", Key=piece.key, Body=b"eve")
        return None

    monkeypatch.setattr(Bucket, "same", look)
    assert "another content" in await altered(spec, trail)
    assert set(objects(client).values()) == {b"eve"}


async def test_a_copy_that_was_altered_in_place_is_found_without_a_checksum(
    spec: S3Spec, client: Any, trail: AuditLog
) -> None:
    """Same length, and a server that computed no SHA-256: what it gives back is read."""
    await copied(spec, trail)
    key = "prod/audit/2026/12/30.jsonl"
    body = objects(client)[key]
    client.put_object(Bucket="trail", Key=key, Body=body)
    assert "ChecksumSHA256" not in client.head_object(
        Bucket="trail", Key=key, ChecksumMode="ENABLED"
    )
    assert await copied(spec, trail) == (0, 3)
    client.put_object(Bucket="trail", Key=key, Body=body.replace(b"ada", b"eve"))
    assert "another content" in await altered(spec, trail)


class Weak(BaseHTTPRequestHandler):
    """An S3 that knows neither conditions nor checksums."""

    protocol_version = "HTTP/1.1"
    kept: dict[str, bytes]
    refused: list[str]

    def do_HEAD(self) -> None:
        self._say(200 if self.path in self.kept else 404, self.kept.get(self.path, b""))

    def do_GET(self) -> None:
        if "list-type=2" in self.path:
            keys = "".join(f"<Contents><Key>{k[7:]}</Key></Contents>" for k in sorted(self.kept))
            said = f"<ListBucketResult>{keys}<IsTruncated>false</IsTruncated></ListBucketResult>"
            return self._say(200, said.encode())
        self._say(200, self.kept[self.path])

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("If-None-Match"):
            self.refused.append(self.path)
            said = b"<Error><Code>NotImplemented</Code><Message>no</Message></Error>"
            self._say(501, said)
        else:
            self.kept[self.path] = body
            self._say(200, b"")

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


async def test_a_weak_s3_is_written_without_the_condition_and_read_back(
    spec: S3Spec, trail: AuditLog
) -> None:
    handler = type("Handler", (Weak,), {"kept": {}, "refused": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    weak = spec.model_copy(update={"endpoint_url": f"http://127.0.0.1:{server.server_port}"})
    try:
        assert await copied(weak, trail) == (3, 0)
        assert len(handler.refused) >= 3 and await copied(weak, trail) == (0, 3)
        assert sorted(handler.kept.values()) == sorted(
            p.read_bytes() for p, _ in trail.snapshot().files
        )
    finally:
        server.shutdown()
        server.server_close()


async def test_errors_say_what_to_do_and_tell_no_secret(
    spec: S3Spec, client: Any, trail: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = spec.model_copy(update={"bucket": "no-such-bucket"})
    with pytest.raises(Permanent, match="make the bucket") as bucket:
        await copied(gone, trail)
    with socket.socket() as s:  # listens not
        s.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{s.getsockname()[1]}"
        with pytest.raises(Transient, match="is it up") as down:
            await copied(spec.model_copy(update={"endpoint_url": url, "timeout_s": 1}), trail)
    monkeypatch.delenv("TEST_S3_SECRET")
    with pytest.raises(Permanent, match="TEST_S3_SECRET is not set"):
        await copied(spec, trail)
    assert "not-to-be-seen" not in f"{bucket.value}{down.value}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": "No Such"},
        {"bucket": "trail", "prefix": "/up/../"},
        {"bucket": "trail", "access_key": "${A}"},
        {"bucket": "trail", "access_key": "AKIA", "secret_key": "plain"},
    ],
)
def test_what_is_no_bucket_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as e:
        S3Spec.model_validate(wrong)
    assert "plain" not in str([x["msg"] for x in e.value.errors()])
