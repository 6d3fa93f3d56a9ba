"""Values of options that need more than a word."""

import re
from collections.abc import Sequence

from pvback.errors import UsageError

__all__ = ["parse_percent", "parse_tag_filters", "parse_tags"]


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
