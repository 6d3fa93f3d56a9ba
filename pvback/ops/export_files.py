"""Exported objects as files: `GROUP/KIND/NAME.json`, and a list of what was left out.

A document is JSON with sorted keys, two blanks of indent and a newline at its end: the same object is always
the same bytes. In names everything but ASCII letters, digits, `.`, `_` and `-` is written as `%` and the two
digits of each byte; a name that is longer than file systems allow goes on in a folder whose name ends with
`~`. Different names never have the same path.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from pvback import limits
from pvback.cluster.exporting import LeftOut
from pvback.cluster.kinds import Body
from pvback.errors import DamagedError

__all__ = ["CORE", "LEFT_OUT", "export_files", "name_of_path", "parse_document", "path_of_object"]

LEFT_OUT = "_left-out.json"
"""No group's name has a `_`."""
CORE = "core"
"""The group that has no name. No other group is called so, for theirs have dots, or are Kubernetes' own."""
_SUFFIX = ".json"
_GOES_ON = "~"


def path_of_object(group: str, kind: str, *, name: str) -> str:
    """Where an object's document is, below the root."""
    text = _escape(name)
    pieces = []
    while len(text) > limits.EXPORT_NAME_BYTES_MAX:
        pieces.append(text[: limits.EXPORT_NAME_BYTES_MAX] + _GOES_ON)
        text = text[limits.EXPORT_NAME_BYTES_MAX :]
    folder = CORE if not group else _escape(group)
    return "/".join([folder, _escape(kind), *pieces, text + _SUFFIX])


def name_of_path(path: str) -> tuple[str, str, str]:
    """(group, kind, name): the reverse. Raises DamagedError for a path that is none."""
    group, _, rest = path.partition("/")
    kind, _, rest = rest.partition("/")
    *pieces, last = rest.split("/")
    if not kind or not last.endswith(_SUFFIX) or any(not one.endswith(_GOES_ON) for one in pieces):
        raise DamagedError("not the path of an exported object", key=path)
    text = "".join(one.removesuffix(_GOES_ON) for one in pieces) + last.removesuffix(_SUFFIX)
    return "" if group == CORE else _unescape(group), _unescape(kind), _unescape(text)


def export_files(objects: Iterable[Body], left_out: Sequence[LeftOut]) -> dict[str, bytes]:
    """Path and content of each file."""
    files = {}
    for body in objects:
        group, _, _ = body["apiVersion"].rpartition("/")
        files[path_of_object(group, body["kind"], name=body["metadata"]["name"])] = _document(body)
    files[LEFT_OUT] = _document({"left_out": [asdict(one) for one in left_out]})
    return files


def parse_document(path: str, data: bytes) -> dict[str, Any]:
    """An object as it was exported. Raises DamagedError."""
    try:
        body = json.loads(data)
        body["apiVersion"], body["kind"], body["metadata"]["name"]
    except (ValueError, KeyError, TypeError) as exc:
        raise DamagedError("not the document of an object", key=path) from exc
    found: dict[str, Any] = body
    return found


def _document(body: Mapping[str, Any]) -> bytes:
    text = json.dumps(body, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "surrogatepass")


def _escape(text: str) -> str:
    escaped = quote(text.encode("utf-8", "surrogatepass"), safe="").replace("~", "%7E")
    # Names that mean something else to a file system, or to us.
    return f"%{ord(text[0]):02X}{escaped[1:]}" if text in (".", "..", CORE) else escaped


def _unescape(text: str) -> str:
    return unquote_to_bytes(text).decode("utf-8", "surrogatepass")
