"""The audit trail's copy in S3: written once, never overwritten, compared every time.

`PREFIX/YYYY/MM/DD.jsonl` is a day that is over (a later one has begun), `PREFIX/open/YYYY-MM-DD/
SEQ-HASH.jsonl` the present day up to a record. Whoever writes the whole local trail anew cannot
make these fit. Source: S3 API, PutObject `If-None-Match`, HeadObject `x-amz-checksum-mode`.
"""

import asyncio
import base64
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from blocks.audit_chain import Verified, day_of
from blocks.audit_spec import S3Spec
from blocks.audit_verify import Snapshot
from blocks.errors import Permanent, RunbookError, Transient
from blocks.secret_ref import resolve

BUSY = {429, 500, 502, 503, 504}
TAKEN = {409, 412}


class Copied(NamedTuple):
    """What came of one copy."""

    new: int
    there: int
    """Files that were there already, with the same content."""


class _Piece(NamedTuple):
    """The beginning of a file, which is what is copied of it."""

    path: Path
    size: int
    key: str
    sha256: bytes


async def copy_trail(spec: S3Spec, shot: Snapshot, verified: Verified) -> Copied:
    """Bring the copy up to date and compare every day of it. Twice changes nothing.

    Args:
        spec: where to.
        shot: the trail as it was when it was verified.
        verified: what came of that; its last record names the present day's key.

    Raises:
        Permanent: a day is there with another content; bucket or credentials are refused.
        Transient: the server does not answer.
    """
    keys = None
    if spec.access_key and spec.secret_key:
        found = await resolve(spec.access_key), await resolve(spec.secret_key)
        keys = tuple(secret.get_secret_value() for secret in found)
    return await asyncio.to_thread(_copy, spec, keys, shot, verified)


def _copy(spec: S3Spec, keys: tuple[str, ...] | None, shot: Snapshot, verified: Verified) -> Copied:
    store, new, there = _Store(spec, keys), 0, 0
    for index, (path, size) in enumerate(shot.files):
        key = f"{spec.prefix}/{day_of(path)}.jsonl"
        if index == len(shot.files) - 1:  # a clock may be set back: it is over when a later began
            day = day_of(path).replace("/", "-")
            key = f"{spec.prefix}/open/{day}/{verified.seq:010d}-{verified.hash[:12]}.jsonl"
        if store.keep(_Piece(path, size, key, _sha256(path, size))):
            new += 1
        else:
            there += 1
    return Copied(new, there)


class _Store:
    """One bucket."""

    def __init__(self, spec: S3Spec, keys: tuple[str, ...] | None) -> None:
        import boto3  # lazy: half a second, and few stacks have a bucket
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self.spec, self.where = spec, spec.endpoint_url or "AWS"
        access, secret = keys or (None, None)
        try:
            self.client: Any = boto3.client(
                "s3",
                endpoint_url=spec.endpoint_url,
                region_name=spec.region,
                aws_access_key_id=access,
                aws_secret_access_key=secret,
                config=Config(
                    connect_timeout=spec.timeout_s,
                    read_timeout=spec.timeout_s,
                    retries={"mode": "standard", "max_attempts": 3},
                    s3={"addressing_style": "path"} if spec.endpoint_url else None,
                ),
            )
        except (BotoCoreError, ValueError) as e:
            raise Permanent(f"S3 at {self.where}: {type(e).__name__}; correct audit.s3") from e

    def keep(self, piece: _Piece) -> bool:
        """Write it unless it is there; whether it was written.

        Raises:
            Permanent, Transient: as `copy_trail`.
        """
        if self._is_there(piece):
            return False
        wrote = self._put(piece)
        if not self._is_there(piece):
            raise Transient(f"{self._at(piece)} is not there after it was written; look at it")
        return wrote

    def _put(self, piece: _Piece) -> bool:
        condition = {"IfNoneMatch": "*"}
        while True:
            try:
                with piece.path.open("rb") as f:
                    self.client.put_object(
                        Bucket=self.spec.bucket,
                        Key=piece.key,
                        Body=f.read(piece.size),
                        ContentType="application/x-ndjson",
                        ChecksumSHA256=base64.b64encode(piece.sha256).decode(),
                        Metadata={"sha256": piece.sha256.hex()},
                        **condition,
                    )
                return True
            except OSError as e:
                raise Transient(f"{piece.path} cannot be read: {e.strerror}") from e
            except Exception as e:
                status, code = _answer(e)
                if status in TAKEN:
                    return False  # somebody else wrote it at this moment: it is compared next
                if condition and (status == 501 or code == "NotImplemented"):
                    condition = {}  # a weak S3: that it was not there was asked just before
                    continue
                raise self._error(e, status, code) from e

    def _is_there(self, piece: _Piece) -> bool:
        try:
            head = self.client.head_object(
                Bucket=self.spec.bucket, Key=piece.key, ChecksumMode="ENABLED"
            )
        except Exception as e:
            status, code = _answer(e)
            if status == 404 and code != "NoSuchBucket":
                return False
            raise self._error(e, status, code) from e
        same = head["ContentLength"] == piece.size and self._sha256(head, piece) == piece.sha256
        if not same:
            raise Permanent(
                f"{self._at(piece)} is there with another content than {piece.path.name} of this "
                f"machine: one of the two was altered, or two machines share the prefix; compare "
                f"them; nothing was overwritten"
            )
        return True

    def _sha256(self, head: dict[str, Any], piece: _Piece) -> bytes:
        """What the server computed; where it computes none, of what it gives back."""
        if said := head.get("ChecksumSHA256"):
            return base64.b64decode(said)
        found = hashlib.sha256()
        try:
            body = self.client.get_object(Bucket=self.spec.bucket, Key=piece.key)["Body"]
            for chunk in body.iter_chunks(1 << 20):
                found.update(chunk)
        except Exception as e:
            raise self._error(e, *_answer(e)) from e
        return found.digest()

    def _at(self, piece: _Piece) -> str:
        return f"s3://{self.spec.bucket}/{piece.key}"

    def _error(self, error: Exception, status: int, code: str) -> RunbookError:
        """By class and status only: an answer may name what is nobody's business."""
        what = code or type(error).__name__
        at = f"S3 at {self.where}, bucket {self.spec.bucket}: {what}"
        if status in BUSY or (not status and "Credentials" not in what):
            return Transient(f"{at}; is it up, and audit.s3 right?")
        if status == 404:
            return Permanent(f"{at}; make the bucket, or correct audit.s3.bucket")
        return Permanent(f"{at}; correct the credentials of audit.s3, or what they may do")


def _answer(error: Exception) -> tuple[int, str]:
    """Status and code of an answer; 0 and nothing when there was none.

    Raises:
        Exception: it is no error of boto3.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, ClientError):
        said = error.response
        status = said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        return int(status), str(said.get("Error", {}).get("Code", ""))[:60]
    if isinstance(error, BotoCoreError):
        return 0, ""
    raise error


def _sha256(path: Path, size: int) -> bytes:
    found = hashlib.sha256()
    with path.open("rb") as f:
        while size > 0 and (chunk := f.read(min(size, 1 << 20))):
            size -= len(chunk)
            found.update(chunk)
    return found.digest()
