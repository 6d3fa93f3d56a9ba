"""More scopes: one deduplication domain and one set of keys each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pvback import datapath
from pvback.errors import ConflictError, ObjectNotFound
from pvback.repository.config_object import parse_config
from pvback.repository.gcstate import first_gc_state
from pvback.repository.key_objects import config_facts
from pvback.repository.keys import require_owner
from pvback.repository.layout import CONFIG_KEY, GC_STATE_NAME, ObjectType
from pvback.repository.repository import RepositoryAccess
from pvback.repository.revoking import replace_config
from pvback.retrying import create_own

__all__ = ["add_scope", "in_scope"]


def in_scope(access: RepositoryAccess, scope: str) -> RepositoryAccess:
    """The same access to another scope, by id, that the key opens."""
    return replace(access, objects=access.objects_of(scope))


def add_scope(access: RepositoryAccess, label: str) -> RepositoryAccess:
    """Access to the scope with this label, which is made when there is none. Owners only: WrongKeyError.

    Order: `config`, then the scope's `gc/state`, without which nobody can write there. Broken off between the
    two, the next call completes it. Raises ConflictError when others add scopes or change `config` meanwhile.
    """
    require_owner(access)
    fitting = [scope for scope, name in access.keyring.scopes() if name == label]
    current = access
    if not fitting:
        known = [one["id"] for one in config_facts(access.config_object)["scopes"]]

        def plan(facts: Mapping[str, Any]) -> Mapping[str, object]:
            # Labels are sealed: a scope that is new to us may be the very one, made by somebody else.
            if [one["id"] for one in facts["scopes"]] != known:
                raise ConflictError("somebody else has added a scope", key=CONFIG_KEY, hint="run it again")
            return {"scope": label}

        keyring, config = replace_config(access, plan)
        current = replace(access, keyring=keyring, config_object=config, facts=parse_config(config))
        fitting = [scope for scope, name in keyring.scopes() if name == label]
    found = in_scope(current, fitting[0])
    key = found.objects.layout.key(GC_STATE_NAME)
    try:
        found.store.head(key)
    except ObjectNotFound:
        body = first_gc_state(datapath.random_id())
        sealed = found.objects.seal(ObjectType.GC_STATE, name=GC_STATE_NAME, data=body)
        create_own(found.store, key, data=sealed, clock=found.clock, patience=found.patience)
    return found
