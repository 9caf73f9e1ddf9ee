"""The audit trail's copy in S3: written once, never overwritten, all of it compared every time.

`PREFIX/YYYY/MM/DD.jsonl` is a day that is over (a later one has begun), `PREFIX/open/YYYY-MM-DD/
SEQ-HASH.jsonl` the present day up to a record. Everything that is there binds this machine: each
day to the file of it, each SEQ to its record's hash. So whoever removes the local trail, or writes
it anew, cannot make it fit.
"""

import asyncio
import hashlib
import re
from pathlib import Path
from typing import NamedTuple

from blocks.audit_bucket import Bucket, Piece
from blocks.audit_chain import START, Verified, day_of, lines_of, parsed
from blocks.audit_spec import S3Spec
from blocks.audit_verify import Snapshot
from blocks.errors import Transient
from blocks.secret_ref import resolve

_DAY_KEY = re.compile(r"(\d{4}/\d{2}/\d{2})\.jsonl")
_OPEN_KEY = re.compile(r"open/\d{4}-\d{2}-\d{2}/(\d+)-([0-9a-f]{12,64})\.jsonl")
_ADVICE = (
    "one of the two was altered, or two machines share the prefix; keep both and compare; a trail "
    "that is begun anew wants an audit.s3.prefix of its own; nothing was overwritten"
)


class Copied(NamedTuple):
    """What came of one copy."""

    new: int
    there: int
    """Files that were there already, and fit."""
    altered: str = ""
    """The first file there that does not fit what this machine has, and why; nothing was written
    after it was found. Empty when all fit."""


async def copy_trail(spec: S3Spec, shot: Snapshot, verified: Verified) -> Copied:
    """Compare all that is there, then bring the copy up to date. Twice changes nothing.

    Args:
        spec: where to.
        shot: the trail as it was when it was verified.
        verified: what came of that; its last record names the present day's key.

    Raises:
        Permanent: bucket or credentials are refused.
        Transient: the server does not answer.
    """
    keys = None
    if spec.access_key and spec.secret_key:
        found = await resolve(spec.access_key), await resolve(spec.secret_key)
        keys = tuple(secret.get_secret_value() for secret in found)
    return await asyncio.to_thread(_copy, spec, keys, shot, verified)


def _copy(spec: S3Spec, keys: tuple[str, ...] | None, shot: Snapshot, verified: Verified) -> Copied:
    bucket = Bucket(spec, keys)
    there = [k for k in bucket.keys() if _ours(spec, k)]
    if altered := _days_fault(bucket, there, shot) or _records_fault(bucket, there, shot):
        return Copied(0, 0, altered)
    new = 0
    for key, path, size in _wanted(spec, shot, verified):
        if key in there and _DAY_KEY.fullmatch(_own(spec, key)):
            continue  # compared above
        piece = Piece(path, size, key, _sha256(path, size))
        wrote, altered = _keep(bucket, piece)
        if altered:
            return Copied(new, 0, altered)
        new += wrote
    return Copied(new, len(there))


def _own(spec: S3Spec, key: str) -> str:
    return key.removeprefix(f"{spec.prefix}/")


def _ours(spec: S3Spec, key: str) -> bool:
    """Whether a trail wrote it: anything else there is nobody's claim."""
    own = _own(spec, key)
    return bool(_DAY_KEY.fullmatch(own) or _OPEN_KEY.fullmatch(own))


def _wanted(spec: S3Spec, shot: Snapshot, verified: Verified) -> list[tuple[str, Path, int]]:
    """Key, file and bytes of it, for every day."""
    found = [(f"{spec.prefix}/{day_of(path)}.jsonl", path, size) for path, size in shot.files]
    if found:  # a clock may be set back: a day is over when a later one began
        _, path, size = found.pop()
        size = _whole(path, size) if verified.torn else size
        day = day_of(path).replace("/", "-")
        key = f"{spec.prefix}/open/{day}/{verified.seq:010d}-{verified.hash}.jsonl"
        found += [(key, path, size)] if size else []
    return found


def _days_fault(bucket: Bucket, there: list[str], shot: Snapshot) -> str:
    """The first day there that this machine does not have, or not so; empty when all fit."""
    local = {day_of(path): (path, size) for path, size in shot.files}
    for key in there:
        if not (found := _DAY_KEY.fullmatch(_own(bucket.spec, key))):
            continue
        if found[1] not in local:
            return f"{bucket.at(key)} is there, and this machine has no such day: {_ADVICE}"
        path, size = local[found[1]]
        _, altered = _keep(bucket, Piece(path, size, key, _sha256(path, size)))
        if altered:
            return altered
    return ""


def _records_fault(bucket: Bucket, there: list[str], shot: Snapshot) -> str:
    """The first `open/DAY/SEQ-HASH` whose record is another one here; empty when all fit.

    The name is enough: a record's hash binds all before it.
    """
    found = [(k, m) for k in there if (m := _OPEN_KEY.fullmatch(_own(bucket.spec, k)))]
    wanted = {int(m[1]) for _, m in found}
    hashes = {START.seq: START.hash}
    for path, size in shot.files if found else ():
        for line in lines_of(path, size):
            record, why = parsed(line)
            if not why and record["seq"] in wanted:
                hashes[record["seq"]] = record["hash"]
    for key, match in found:
        seq = int(match[1])
        if not hashes.get(seq, "").startswith(match[2]):
            said = "is another one" if seq in hashes else "is gone"
            return f"{bucket.at(key)} is there, and record {seq} of this machine {said}: {_ADVICE}"
    return ""


def _keep(bucket: Bucket, piece: Piece) -> tuple[bool, str]:
    """Write it unless it is there; whether it was written, and what is wrong with what is there.

    Raises:
        Permanent, Transient: as `copy_trail`.
    """
    wrote, same = False, bucket.same(piece)
    if same is None:
        wrote = bucket.put(piece)
        same = bucket.same(piece)  # somebody else may have written at this moment
    if same is None:
        raise Transient(f"{bucket.at(piece.key)} is not there after it was written; look at it")
    return wrote, "" if same else _another(bucket, piece.key, piece.path)


def _another(bucket: Bucket, key: str, path: Path) -> str:
    at = bucket.at(key)
    return f"{at} is there with another content than {path.name} of this machine: {_ADVICE}"


def _whole(path: Path, size: int) -> int:
    """Bytes without a last line that was cut short: the next append moves that aside."""
    return sum(len(line) for line in lines_of(path, size) if line.endswith(b"\n"))


def _sha256(path: Path, size: int) -> bytes:
    found = hashlib.sha256()
    with path.open("rb") as f:
        while size > 0 and (chunk := f.read(min(size, 1 << 20))):
            size -= len(chunk)
            found.update(chunk)
    return found.digest()
