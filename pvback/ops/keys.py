"""Who can open the repository: the use-cases are those of `pvback.repository.keys` and `.unlocking`."""

from pvback.repository.keys import (
    ROLES,
    KeyInfo,
    SlotMethod,
    add_key,
    add_way_to_unlock,
    list_keys,
    remove_key,
)
from pvback.repository.unlocking import new_recovery_key

__all__ = [
    "ROLES",
    "KeyInfo",
    "SlotMethod",
    "add_key",
    "add_way_to_unlock",
    "list_keys",
    "new_recovery_key",
    "remove_key",
]
