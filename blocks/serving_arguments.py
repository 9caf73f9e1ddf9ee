"""vLLM's command line: read a `ServingConfig` from it, change only the fields that differ. Pure.

Forms read (source: vLLM `FlexibleArgumentParser`, `EngineArgs.add_cli_args`): `--flag value`,
`--flag=value`, `--flag_with_underscores`, unambiguous prefixes (`--max-model`), the short
options `-tp N` and `-q METHOD` (of vLLM's short ones -tp -pp -dcp -dp -dpn -dpr -dpl -dpa -dpp
-dpb -q -O, only these two are serving fields), `--enforce-eager`/`--no-enforce-eager`,
the model as the word after `serve` or as `--model`, and one `sh -c "vllm serve ..."` string.
The last of repeated flags counts. What a `--config FILE` holds is not seen here: a field that
lives only there reads as None (and a flag given beside it wins, as in vLLM).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from blocks.errors import Permanent
from blocks.models import SERVING_FIELDS, ServingConfig
from blocks.service import ArgumentsSource
from blocks.serving_values import BOOLS, check_edit, format_value, parse_value, refuse_drift
from blocks.shell_words import quote_like
from blocks.vllm_line import Line, flag_of, is_negated, parse_line

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)(?::?-([^}]*))?\})")


def read_arguments(
    args: Sequence[str], env: Mapping[str, str], source: ArgumentsSource
) -> ServingConfig:
    """The serving config written down in a container's arguments and environment.

    A flag wins over a variable of `source.env`: where both exist the entrypoint's variable is
    taken for the default. In a `sh -c` string, `$NAME` and `${NAME:-default}` as a whole value
    are looked up in `env`.

    Raises:
        Permanent: a value that vLLM would refuse, a flag without its value, or a shell string
            that cannot be understood.
    """
    line = parse_line(args)
    values: dict[str, Any] = {}
    for field in SERVING_FIELDS:
        if found := line.last(field):
            where = f"arguments: {flag_of(field)}"
            text = found.text
            if line.words[found.at].dynamic:
                text = _expand(text, env, where)
            values[field] = True if found.bare else parse_value(field, text, where)
            if found.bare and is_negated(found.prefix):
                values[field] = False
        elif name := source.env.get(field):
            where = f"environment: {name}"
            values[field] = parse_value(field, env.get(name, ""), where)
    return ServingConfig(**values)


def edit_arguments(
    args: Sequence[str],
    env: Mapping[str, str],
    source: ArgumentsSource,
    before: ServingConfig,
    after: ServingConfig,
) -> tuple[list[str], dict[str, str]]:
    """New arguments and environment with the fields that differ between `before` and `after`.

    All else stays as it is, in its order. The occurrence that counts is edited in its own form;
    an absent flag is added at the end in the form in use (`=` or space); a field that becomes
    None is removed wherever it is set. A field that is no flag now and is named in `source.env`
    is written to its variable. Further names after the first served name are kept.

    Raises:
        Unsafe: `drifted`, a field to change does not have its `before` value.
        Permanent: not editable safely: a value made of shell variables not named in
            `source.env`, several vLLM commands in one string, or unreadable arguments.
    """
    now = read_arguments(args, env, source)
    refuse_drift(before, after, now, "arguments")
    line, new_env = parse_line(args), dict(env)
    replace: dict[int, tuple[str, str]] = {}
    remove: set[int] = set()
    insert: list[str] = []
    model: list[str] = []
    for field, (_, value) in before.diff(after).items():
        variable, found = source.env.get(field), line.last(field)
        if value is None:
            for each in (f for f in line.found if f.field == field):
                remove.update(range(each.start, each.end))
            if variable:
                new_env.pop(variable, None)
        elif found and line.words[found.at].dynamic:
            if _variable(found.text) != variable or not variable:
                raise Permanent(
                    f"arguments: {flag_of(field)} is {found.text!r} in a shell string; name its "
                    f"variable under serving.env ({field}: NAME) or write the number there"
                )
            new_env[variable] = format_value(value, new_env.get(variable))
        elif found and found.bare:
            replace[found.at] = ("", _bare(found.prefix, value))
        elif found:
            replace[found.at] = (found.prefix, format_value(value, found.text))
        elif variable:
            new_env[variable] = format_value(value, new_env.get(variable))
        elif field == "model" and line.serve:
            model = [str(value)]
        else:
            insert += _new_flag(field, value, line)
    new_args = list(args)
    if line.script is None:
        new_args = [
            "".join(replace.get(i, ("", w.text)))
            for i, w in enumerate(line.words)
            if i not in remove
        ] + insert
        if model:
            new_args.insert(line.begin, *model)
    elif replace or remove or insert or model:
        try:
            new_args[line.script] = _rewrite(
                args[line.script], line, replace, remove, insert, model
            )
        except ValueError as e:
            raise Permanent(f"arguments: the shell string cannot be edited safely: {e}") from None
    check_edit(before, after, read_arguments(new_args, new_env, source), "arguments")
    return new_args, new_env


def _bare(name: str, value: bool) -> str:
    stem = name[5:] if is_negated(name) else name[2:]
    return ("--" if value else "--no-") + stem


def _new_flag(field: str, value: Any, line: Line) -> list[str]:
    if field in BOOLS:
        return [_bare(flag_of(field), value)]
    given = [w.text for w in line.words[line.begin :] if w.text.startswith("--")]
    with_equals = sum("=" in w for w in given)
    spaced = any(f.prefix == "" and not f.bare and f.at > f.start for f in line.found)
    if with_equals and not spaced:
        return [f"{flag_of(field)}={format_value(value)}"]
    return [flag_of(field), format_value(value)]


def _variable(text: str) -> str | None:
    match = _VARIABLE.fullmatch(text)
    return (match[1] or match[2]) if match else None


def _expand(text: str, env: Mapping[str, str], where: str) -> str:
    match = _VARIABLE.fullmatch(text)
    value = (env.get(match[1] or match[2]) or match[3]) if match else None
    if value is None:
        raise Permanent(
            f"{where}: {text!r} cannot be resolved from the container's environment; "
            "write the value there"
        )
    return value


def _rewrite(
    script: str,
    line: Line,
    replace: dict[int, tuple[str, str]],
    remove: set[int],
    insert: list[str],
    model: list[str],
) -> str:
    """The script with some words replaced, removed or added; every other byte as it was."""
    edits: list[tuple[int, int, str]] = []
    for i, (prefix, value) in replace.items():
        word = line.words[i]
        raw = script[word.start : word.end]
        if prefix and raw.startswith(prefix):
            new = prefix + quote_like(value, raw[len(prefix) :])
        else:
            new = quote_like(prefix + value, raw)
        edits.append((word.start, word.end, new))
    for i in remove:
        word, gap = line.words[i], line.words[i - 1].end if i else 0
        blank = not re.sub(r"\\\n|\s", "", script[gap : word.start])
        edits.append((gap if blank else word.start, word.end, ""))
    if not line.words and (insert or model):
        raise ValueError("it holds no vLLM command")
    for place, added in ((line.begin - 1, model), (len(line.words) - 1, insert)):
        if added:
            end = line.words[place].end
            edits.append((end, end, "".join(" " + quote_like(a, "") for a in added)))
    for start, end, new in sorted(edits, key=lambda e: e[:2], reverse=True):
        script = script[:start] + new + script[end:]
    return script
