"""The words of the command line, sorted by flag; what is no flag is named, all of it at once.

Boolean flags are as Go's: `--flag` or `--flag=false`, never `--flag false`. Upstream's logger flags
(`--klog.*`) are passed over. What values mean is in settings.py.
"""

from __future__ import annotations

import argparse
import collections
import difflib
from collections.abc import Iterable, Sequence

from kci.provider import key_settings, options

_KNOWN = {flag.name: flag for flag in options.FLAGS}
_BOOLEAN = frozenset(flag.name for flag in options.FLAGS if flag.form == options.BOOLEAN)
_KLOG = "klog."


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Shows that a boolean flag's value is part of its word."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        return super()._format_action_invocation(action).replace(" [=", "[=")


def read(arguments: Sequence[str], problems: list[str], warnings: list[str]) -> dict[str, list[str]]:
    """What each flag was given, in order; --help prints and exits."""
    if {"-h", "--help"} & set(arguments):
        _help(options.FLAGS)
    found: dict[str, list[str]] = {name: [] for name in _KNOWN}
    words = collections.deque(arguments)
    while words:
        word = words.popleft()
        name, separator, value = word.removeprefix("--").partition("=")
        if not word.startswith("-"):
            problems.append(f"{word!r} belongs to no flag: write a flag's value as --flag=value")
        elif not word.startswith("--") or name not in _KNOWN:
            if not separator and words and not words[0].startswith("-"):
                # Very likely its value, whatever it is.
                _ = words.popleft()
            if name.startswith(_KLOG):
                warnings.append(f"--{name} has no effect: --log-level says how much is logged")
            else:
                problems.append(f"{word} is unknown: {_hint(name.lstrip('-'))}")
        elif separator:
            found[name].append(value)
        elif name in _BOOLEAN:
            found[name].append("true")
            if words and not words[0].startswith("-"):
                problems.append(_detached(word, words.popleft()))
        elif words and not words[0].startswith("--"):
            found[name].append(words.popleft())
        else:
            problems.append(f"{word} has no value: write {word}={_KNOWN[name].form}")
    return found


def _help(flags: Iterable[options.Flag]) -> None:
    # Only for the looks of its help; it would stop at the first thing that is wrong.
    parser = argparse.ArgumentParser(
        prog="virtual-kubelet",
        usage="virtual-kubelet [--flag=value ...]",
        description="A Kubernetes node whose pods run on Kingsoft Cloud's container instances.",
        epilog=options.epilog(key_settings.VARIABLES),
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
    for flag in flags:
        is_boolean = flag.form == options.BOOLEAN
        _ = parser.add_argument(
            f"--{flag.name}",
            metavar=f"[={flag.form}]" if is_boolean else flag.form,
            help=flag.text.replace("%", "%%"),
        )
    _ = parser.parse_args(["--help"])


def _detached(flag: str, value: str) -> str:
    if value.lower() in {"true", "false", "0", "1", "t", "f"}:
        return f"{value!r} stands by itself, and {flag} takes its value in one word: write {flag}={value}"
    return f"{value!r} belongs to no flag: {flag} is written alone, or as {flag}=true or {flag}=false"


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name, _KNOWN, n=1)
    return f"is --{near[0]} meant? --help lists what there is" if near else "--help lists what there is"
