"""What the API server answers: JSON, or its refusal in its own words."""

import json
from collections.abc import Mapping
from typing import Any

from pvback import limits
from pvback.errors import ClusterError, ClusterObjectExists, ClusterObjectMissing, ClusterRefusal

__all__ = ["as_error", "parse_answer"]

_KINDS: Mapping[int, type[ClusterError]] = {
    404: ClusterObjectMissing,
    409: ClusterObjectExists,
    410: ClusterObjectMissing,
}


def parse_answer(data: bytes, what: str) -> dict[str, Any]:
    """An object. Raises ClusterError for anything else."""
    try:
        found = json.loads(data)
    except ValueError as exc:
        raise ClusterError("the API server's answer is no JSON", key=what) from exc
    if not isinstance(found, dict):
        raise ClusterError("the API server's answer is no object", key=what)
    return found


def as_error(status: int, data: bytes, *, what: str) -> ClusterError:
    """The API's own words."""
    try:
        message = str(json.loads(data).get("message") or "")
    except (ValueError, AttributeError):
        message = data[: limits.MESSAGE_BYTES_MAX].decode("utf-8", "replace").strip()
    kind = _KINDS.get(status, ClusterRefusal if status < limits.HTTP_SERVER_ERROR_MIN else ClusterError)
    hint = None
    if status == limits.HTTP_UNAUTHORIZED:
        hint = "the credentials of the kubeconfig are not accepted"
    elif status == limits.HTTP_FORBIDDEN and ("cannot" in message or message.endswith("forbidden: ")):
        # Some refusals of the API server give no reason.
        hint = "the account lacks a right: see docs/kubernetes.md, rights"
    return kind(message or f"the API server answered {status}", key=what, hint=hint)
