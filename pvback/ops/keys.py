"""Who can open the repository: the use-cases are those of `pvback.repository.keys`."""

from pvback.repository.keys import (
    ROLES,
    KeyInfo,
    SlotMethod,
    add_key,
    add_way_to_unlock,
    list_keys,
    remove_key,
)

__all__ = ["ROLES", "KeyInfo", "SlotMethod", "add_key", "add_way_to_unlock", "list_keys", "remove_key"]
