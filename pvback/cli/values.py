"""Values of options that need more than a word."""

import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from pvback.errors import UsageError

__all__ = ["parse_percent", "parse_span", "parse_tag_filters", "parse_tags", "parse_time", "parse_toleration"]

_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def parse_time(text: str | None) -> datetime | None:
    """A moment in ISO 8601; without an offset it is local time. Raises UsageError."""
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise UsageError(f"not a time: {text!r}", hint="write 2026-03-01T12:00:00+00:00") from None


def parse_toleration(word: str) -> dict[str, str]:
    """`KEY[=VALUE][:EFFECT]`, as `kubectl taint` has it, to what Kubernetes has. Raises UsageError."""
    taint, mark, effect = word.partition(":")
    key, has_value, value = taint.partition("=")
    if not key or (mark and effect not in _EFFECTS):
        raise UsageError(
            f"not a toleration: {word!r}",
            hint=f"write KEY, KEY=VALUE or KEY=VALUE:EFFECT, with one of {', '.join(_EFFECTS)}",
        )
    made = {"key": key, "operator": "Equal" if has_value else "Exists"}
    return made | ({"value": value} if has_value else {}) | ({"effect": effect} if mark else {})


def parse_tags(words: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` words; a word without `=` is a key with an empty value. Raises UsageError."""
    tags: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if not key:
            raise UsageError(f"not a tag: {word!r}", hint="write KEY=VALUE")
        if tags.setdefault(key, value) != value:
            raise UsageError(f"tag {key} has two values")
    return tags


def parse_tag_filters(words: Sequence[str]) -> dict[str, str | None]:
    """Like tags, but a word without `=` stands for any value."""
    values = parse_tags(words)
    return {key: values[key] if f"{key}={values[key]}" in words else None for key in values}


def parse_percent(text: str | None, *, may_be_none: bool = False) -> float | None:
    """`10%` or `10`; 0 only where nothing may be asked for. Raises UsageError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%?", text)
    if match is None or float(match[1]) > 100 or (float(match[1]) == 0 and not may_be_none):
        raise UsageError(f"not a share: {text!r}", hint="for example 10%")
    return float(match[1])


def parse_span(text: str | None) -> timedelta | None:
    """A span of time from `90s`, `30m`, `12h`, `7d`, `4w`, `1y` or several of them, `1d12h`. Raises
    UsageError.
    """
    if text is None:
        return None
    parts = re.findall(r"(\d+)([smhdwy])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise UsageError(f"not a span of time: {text!r}", hint="for example 12h, 7d or 1d12h")
    try:
        return timedelta(seconds=sum(int(count) * _SPAN_SECONDS[unit] for count, unit in parts))
    except OverflowError:
        raise UsageError(f"too long a span of time: {text!r}") from None
