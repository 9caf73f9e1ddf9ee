"""One S3 bucket as the audit trail uses it: list, compare, write what is not there yet.

Source: S3 API, ListObjectsV2, PutObject `If-None-Match`, HeadObject `x-amz-checksum-mode`.
"""

import base64
import hashlib
from pathlib import Path
from typing import Any, NamedTuple

from blocks.audit_spec import S3Spec
from blocks.errors import Permanent, RunbookError, Transient

BUSY = {429, 500, 502, 503, 504}
TAKEN = {409, 412}


class Piece(NamedTuple):
    """The beginning of a file, which is what is copied of it."""

    path: Path
    size: int
    """Bytes of it."""
    key: str
    sha256: bytes


class Bucket:
    """One bucket. Every call raises Permanent (refused) or Transient (no answer)."""

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

    def keys(self) -> list[str]:
        """Everything under the prefix, in the order of its bytes."""
        pages = self.client.get_paginator("list_objects_v2")
        try:
            found = pages.paginate(Bucket=self.spec.bucket, Prefix=f"{self.spec.prefix}/")
            return [str(one["Key"]) for page in found for one in page.get("Contents", [])]
        except Exception as e:
            raise self._error(e, *_answer(e)) from e

    def put(self, piece: Piece) -> bool:
        """Write it unless the key is there; whether it was written."""
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

    def same(self, piece: Piece) -> bool | None:
        """Whether the key has this content; None when it is not there."""
        try:
            head = self.client.head_object(
                Bucket=self.spec.bucket, Key=piece.key, ChecksumMode="ENABLED"
            )
        except Exception as e:
            status, code = _answer(e)
            if status == 404 and code != "NoSuchBucket":
                return None
            raise self._error(e, status, code) from e
        return head["ContentLength"] == piece.size and self._sha256(head, piece) == piece.sha256

    def _sha256(self, head: dict[str, Any], piece: Piece) -> bytes:
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

    def at(self, key: str) -> str:
        """As a person writes it."""
        return f"s3://{self.spec.bucket}/{key}"

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
