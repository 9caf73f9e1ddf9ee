"""`runbooks audit`: show the audit trail, prove it, bring it up to date."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from deployments.cli_base import JsonOption, LocalOption, connect, err, fail, need, out, wait_for

audit = typer.Typer(
    name="audit",
    help="Who did what, when, why, and what came of it: show it, prove it, export it.",
    invoke_without_command=True,
)
FORMATS = ("jsonl", "csv", "md")
BROKEN = 1


@audit.callback()
def show(
    context: typer.Context,
    since: Annotated[str, typer.Option(help="30d, 12h, 2w, or a date")] = "30d",
    as_format: Annotated[str, typer.Option("--format", help="jsonl, csv or md")] = "md",
    file: Annotated[
        Path | None, typer.Option("--out", help="write there instead of to standard output")
    ] = None,
) -> None:
    """Show the trail of this machine; 1 when its chain is broken.

    jsonl are the records as they stand in the chain, hashes and all.
    """
    if context.invoked_subcommand:
        return
    if as_format not in FORMATS:
        fail(f"--format {as_format!r}: write one of {', '.join(FORMATS)}")
    from datetime import UTC, datetime

    from blocks.audit_export import prove
    from blocks.audit_log import AuditLog
    from deployments.audit_text import write
    from flows.decisions.since import parse_since

    log, begin = AuditLog(), parse_since(since, datetime.now(UTC))
    shot, verified = prove(log)
    if file is None:
        count = write(sys.stdout, log.records(shot), begin, as_format)
    else:
        try:
            with file.open("w", encoding="utf-8", newline="") as f:
                count = write(f, log.records(shot), begin, as_format)
        except OSError as e:
            fail(f"{file} cannot be written: {e.strerror}; give another --out")
    if file:
        out.print(f"{count} records in {file}", highlight=False)
    elif not count:
        err.print(f"no record since {begin:%Y-%m-%d %H:%M} UTC; try: runbooks audit export")
    if verified.first_broken:
        fail(f"the audit trail is broken at {verified.first_broken}", BROKEN)


@audit.command()
def verify(
    folder: Annotated[
        Path | None, typer.Option(help="another trail, e.g. a copy; none: this machine's")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prove the whole chain: 0 when every record is what was written; 1 names the first that is not.

    The record that the last export proved must be there too. What it cannot prove: whoever may
    write to the folder may write all of it anew. The copy in S3 can, and every export compares it.
    """  # noqa: E501 - the first line is the command's help
    from blocks.audit_export import prove, read_exported
    from blocks.audit_log import AuditLog

    if folder and not folder.is_dir():
        fail(f"--folder {folder} is no folder; give that which holds the years")
    _, verified = prove(AuditLog(folder))
    if as_json:
        out.print_json(verified.model_dump_json())
    if broken := verified.first_broken:
        fail(f"the audit trail is broken at {broken}", BROKEN)
    if as_json:
        return
    torn = "; a last line is being written, or was cut short by a kill" if verified.torn else ""
    end = f", up to {verified.hash}" if verified.records else ": there is nothing to prove"
    said = f"{verified.records} records in {verified.files} files are whole{end}{torn}"
    out.print(said, highlight=False, soft_wrap=True)
    if made := read_exported(folder):
        copies = f", copies in {', '.join(made.copies)}" if made.copies else ", no copy elsewhere"
        at = f"{made.at:%Y-%m-%d %H:%M} UTC"
        out.print(f"last verified export: {at}{copies}", highlight=False, soft_wrap=True)


@audit.command()
def export(
    stack: Annotated[str, typer.Option(help="whose copies are brought up to date")] = "*",
    since: Annotated[str, typer.Option(help="read ended runs again from there, e.g. 30d")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="add and copy nothing")] = False,
    as_json: JsonOption = False,
    local: LocalOption = False,
) -> None:
    """Run export-audit now, in this process: the trail is this machine's."""
    need(connect(local), ", or add --local")
    from deployments.console import show as shown
    from deployments.running import Request, run_here
    from flows.report import EXIT_CODES

    words = [f"since={since}"] if since else []
    request = Request.parse("export-audit", stack, "", words, dry_run, "")
    report = wait_for(run_here(request))
    if as_json:
        sys.stdout.write(report.model_dump_json(indent=2) + "\n")
    else:
        shown(report, out)
    sys.exit(EXIT_CODES[report.verdict])
