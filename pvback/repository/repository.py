"""Making, opening and unlocking a repository.

Order of `init`: key object, its copy, `gc/state`, then `config`, created only once: it is what makes a
repository. Its copy comes last. A client that finds neither `config` nor its copy finds no repository,
whatever else lies there. `founding` tells what is left of an `init` that ended before that.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pvback import datapath, limits
from pvback.config import Config, Secret, load_password
from pvback.errors import (
    DamagedError,
    FileError,
    ObjectNotFound,
    SessionFencedError,
    StorageError,
    UsageError,
    WrongKeyError,
)
from pvback.model import LocalAddress, StoreUsage
from pvback.repository.config_object import RepositoryConfig, check_writable, parse_config
from pvback.repository.copies import FoundConfig, Twins, read_config
from pvback.repository.gcstate import first_gc_state
from pvback.repository.heads import HeadsFile, Memory, load_judged
from pvback.repository.layout import GC_STATE_NAME, ObjectType, ScopeLayout, copy_key
from pvback.repository.opened import OpenedFile
from pvback.repository.register_copies import CopiesFile
from pvback.repository.sealed import ScopeObjects
from pvback.repository.snapshots import Catalog, first_questions
from pvback.repository.stretching import StretchingAhead
from pvback.repository.unlocking import Unlocked, unlock
from pvback.retrying import Patience
from pvback.runtime import Clock, SystemClock
from pvback.storage import ObjectStore, open_store
from pvback.storage.chain import StoreChain, chain_stores, without_conditions

if TYPE_CHECKING:
    from pvback.datapath import Keyring
    from pvback.storage.ahead import AheadStore

__all__ = [
    "UNCONDITIONAL_WARNING",
    "InitOptions",
    "RepositoryAccess",
    "create_repository",
    "open_repository_access",
]

DEFAULT_SCOPE = "default"
UNCONDITIONAL_WARNING = (
    "the store of this repository ignores conditions on writes: see that one prune only is ever configured "
    "(`--alone`), and that no machine or proxy holds a request back for hours"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What is chosen for a new repository besides its place and its password.

    Attributes:
        label: The name of the first scope.
        chunk_bytes: Average size of chunks; a multiple of 4 KiB.
        recovery_key: A second way to unlock the owner's key, from `new_recovery_key`.
        may_be_unconditional: A store that ignores conditions on writes will do.
    """

    label: str = DEFAULT_SCOPE
    chunk_bytes: int | None = None
    recovery_key: Secret | None = None
    may_be_unconditional: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryAccess:
    """An unlocked repository, and the one of its scopes that is worked on."""

    config: Config
    facts: RepositoryConfig
    store: ObjectStore
    keyring: "Keyring"
    objects: ScopeObjects
    clock: Clock
    chain: StoreChain
    """What `store` is the outside of."""
    config_object: bytes = b""
    """`config` as it was when this was opened."""
    warnings: list[str] = field(default_factory=list)
    """What people should know, such as that a second copy had to be used."""

    @property
    def twins(self) -> Twins:
        """`config` and key objects, each with its copy."""
        return Twins(
            store=self.store,
            keyring=self.keyring,
            config=self.config_object,
            clock=self.clock,
            patience=self.patience,
        )

    @property
    def patience(self) -> Patience:
        """Of all who write here and repeat it themselves. Its `cancel` ends every wait for the store."""
        return self.chain.patience

    def objects_of(self, scope: str) -> ScopeObjects:
        """The objects of another scope, by id."""
        return ScopeObjects(self.store, self.keyring, ScopeLayout(scope), self.patience)

    def job_options(self, index: Mapping[str, object]) -> dict[str, object]:
        """The options that every job takes."""
        is_remote = self.store.capabilities.is_remote
        return {
            "scope": self.objects.scope,
            "memory_bytes": self.config.memory_bytes - limits.INTERPRETER_BYTES,
            "threads": 0,
            "gets": limits.READS_IN_FLIGHT if is_remote else limits.READS_IN_FLIGHT_LOCAL,
            "index": index,
        }

    def catalog(self) -> Catalog:
        """Registers and records, held against what this client remembers: DamagedError for a roll-back.

        A cache directory that was named has to be usable, or FileError is raised; the default one need not.
        """
        file, remembered = self._remembered()
        folder = self.config.cache_dir
        copies = folder and CopiesFile(folder, repository=self.facts.repository, scope=self.objects.scope)
        return load_judged(
            self.objects,
            serial=self.facts.serial,
            file=file,
            remembered=remembered,
            copies_file=copies or None,
        )

    def _remembered(self) -> tuple[HeadsFile | None, Memory]:
        if self.config.cache_dir is None:
            return None, Memory()
        file = HeadsFile(self.config.cache_dir, repository=self.facts.repository, scope=self.objects.scope)
        try:
            return file, file.load()
        except FileError:
            if "cache_dir" in self.config.sources:
                raise
            return None, Memory()

    @contextlib.contextmanager
    def while_there(self) -> Iterator[None]:
        """What is missing raises RepositoryNotFound when somebody has removed all of the repository since."""
        try:
            yield
        except (DamagedError, ObjectNotFound, SessionFencedError):
            # Without its register a session looks ended, too. Any other answer says less than what was found.
            with contextlib.suppress(DamagedError, StorageError):
                read_config(self.store)
            raise

    def usage(self) -> StoreUsage:
        """What was asked of the store since this was opened, opening included."""
        return self.chain.usage()

    def close(self) -> None:
        """Give back the store's connections."""
        self.store.close()


def create_repository(
    config: Config,
    *,
    options: InitOptions | None = None,
    store: ObjectStore | None = None,
    clock: Clock | None = None,
) -> RepositoryConfig:
    """Make a repository at the configured address, with one owner who has the configured password.

    Args:
        config: Address and password.
        options: What else is chosen.
        store: Used in place of the address.
        clock: Times repeats.

    What an `init` that was killed has left does not keep another one from its place. Raises ConflictError
    when there is a repository already or something else, UsageError without a password or for a chunk size
    out of bounds, StorageError.
    """
    # Loaded here, with the probe's threads: only who makes a repository needs it.
    from pvback.repository.founding import (  # noqa: PLC0415
        find_conditions,
        find_free_place,
        found_repository,
    )

    chosen = options or InitOptions()
    password = load_password(config)
    if password is None:
        raise UsageError("a repository needs a password", hint="use `--password-file` or set PVBACK_PASSWORD")
    address = config.require_repository()
    chunker = _plan_chunker(chosen.chunk_bytes or limits.CHUNK_BYTES_AVERAGE)
    used_clock = clock or SystemClock()
    chain = _wrap(config, store or _open(config, make=True), clock=used_clock)
    inner = chain.store
    with contextlib.closing(inner):
        folder = address.path if isinstance(address, LocalAddress) and store is None else None
        left_over = find_free_place(inner, str(address), folder=folder)
        is_needed = not chosen.may_be_unconditional
        if not find_conditions(inner, clock=used_clock, is_needed=is_needed, patience=chain.patience):
            inner = without_conditions(chain, clock=used_clock).store
        argon2 = (limits.ARGON2_MEMORY_KIB, limits.ARGON2_PASSES, limits.ARGON2_LANES)
        made = datapath.create_keys(
            chosen.label,
            chunker=chunker,
            passphrase=password.reveal().encode(),
            argon2=argon2,
            is_conditional=inner.capabilities.can_create and inner.capabilities.can_swap,
        )
        key_object = made.key_object
        if chosen.recovery_key is not None:
            secret = chosen.recovery_key.reveal().encode()
            key_object = made.keyring.add_slot(key_object, "passphrase", secret, argon2)
        first = {made.key_name: key_object, copy_key(made.key_name): key_object}
        first |= _first_states(made.keyring)
        found_repository(
            inner, first, config=made.config, where=str(address), clock=used_clock, patience=chain.patience
        )
        OpenedFile(config).remember(made.keyring, made.keyring.scopes()[0][0], key_object=made.key_object)
        # Another `init` that is still under way has lost, and removes what it goes on to write.
        with contextlib.suppress(StorageError):
            inner.delete_many(left_over)
        return parse_config(made.config)


def open_repository_access(
    config: Config,
    *,
    scope: str | None = None,
    is_writer: bool = False,
    is_used_at_once: bool = False,
    store: ObjectStore | None = None,
    clock: Clock | None = None,
) -> RepositoryAccess:
    """Open and unlock the configured repository.

    Args:
        config: Address, and password or key file.
        scope: Label or id of the scope; None for `default`, or for the only one that the key opens.
        is_writer: Whether anything will be written.
        is_used_at_once: Ask a remote store for the registers while the key is unlocked: the first catalog is
            as old as the opening.
        store: Used in place of the address.
        clock: Times everything.

    Raises RepositoryNotFound, UnsupportedFormatError, WrongKeyError, DamagedError, UsageError, StorageError.
    """
    memory = OpenedFile(config)
    chain = _wrap(config, store or _open(config), clock=clock)
    stretching = _stretch_ahead(config, memory, store)
    # What is asked next is known, and what it costs to unlock a key is no time of the store's.
    used: ObjectStore = chain.store
    ahead = _asking_ahead(used)
    try:
        if ahead is not None:
            used = ahead
            ahead.ask_ahead(memory.questions(scope, with_catalog=is_used_at_once))
        found = read_config(chain.store)
        warnings = list(found.warnings)
        if not found.facts.is_conditional:
            chain, ahead = without_conditions(chain, clock=clock), None
            used = chain.store
            warnings.append(UNCONDITIONAL_WARNING)
        if is_writer:
            check_writable(found.facts)
        with_catalog = ahead if is_used_at_once and len(found.facts.scopes) == 1 else None
        unlocked = _unlock(
            config, found, store=used, memory=memory, ahead=with_catalog, stretching=stretching
        )
        keyring = unlocked.keyring
        layout = ScopeLayout(_choose_scope(keyring, scope))
        memory.remember(keyring, layout.scope, key_object=unlocked.key_object, asked=scope)
        if is_writer:
            _refuse_useless_key(keyring, layout.scope)
    except BaseException:
        used.close()
        raise
    return RepositoryAccess(
        config=config,
        facts=found.facts,
        store=used,
        chain=chain,
        keyring=keyring,
        objects=ScopeObjects(used, keyring, layout, chain.patience),
        clock=clock or SystemClock(),
        config_object=found.data,
        warnings=[*warnings, *unlocked.warnings],
    )


def _unlock(
    config: Config,
    found: FoundConfig,
    *,
    store: ObjectStore,
    memory: OpenedFile,
    ahead: "AheadStore | None",
    stretching: StretchingAhead | None,
) -> Unlocked:
    """The keyring; `ahead` is asked for the catalog meanwhile unless it has been asked already."""

    def ask_for_catalog() -> None:
        if ahead is not None and not ahead.is_asked:
            ahead.ask_ahead(first_questions(ScopeLayout(found.facts.scopes[0])))

    likely = memory.last.key if memory.last is not None else None
    return unlock(config, found, store=store, likely=likely, ahead=stretching, before_secret=ask_for_catalog)


def _stretch_ahead(config: Config, memory: OpenedFile, store: ObjectStore | None) -> StretchingAhead | None:
    """The password on its way to a key, where the key object is far away."""
    is_local = isinstance(config.require_repository(), LocalAddress)
    is_remote = not is_local if store is None else store.capabilities.is_remote
    return StretchingAhead(config, memory.last.salt) if is_remote and memory.last is not None else None


def _asking_ahead(store: ObjectStore) -> "AheadStore | None":
    if not store.capabilities.is_remote:
        return None
    # Loaded here: a local repository needs no threads for this.
    from pvback.storage.ahead import AheadStore  # noqa: PLC0415

    return AheadStore(store)


def _first_states(keyring: "Keyring") -> dict[str, bytes]:
    states: dict[str, bytes] = {}
    for scope, _ in keyring.scopes():
        body = first_gc_state(datapath.random_id())
        sealed = keyring.seal_json(scope, ObjectType.GC_STATE, GC_STATE_NAME, body)
        states[ScopeLayout(scope).key(GC_STATE_NAME)] = sealed
    return states


def _open(config: Config, *, make: bool = False) -> ObjectStore:
    return open_store(config.require_repository(), make=make, s3=config.s3)


def _wrap(config: Config, store: ObjectStore, *, clock: Clock | None) -> StoreChain:
    """The store within the configured rates, counted, with retries around it."""
    return chain_stores(
        store,
        upload_bytes_per_second=config.upload_bytes_per_second,
        download_bytes_per_second=config.download_bytes_per_second,
        retry_seconds=config.s3.retry_seconds,
        clock=clock,
    )


def _refuse_useless_key(keyring: "Keyring", scope: str) -> None:
    """Raise WrongKeyError when nothing that this key writes would count."""
    state = keyring.write_state(scope)
    if state == "revoked":
        raise WrongKeyError("this key was revoked", hint="ask an owner of the repository for a new one")
    if state == "behind":
        raise WrongKeyError(
            "this key is older than the last rotation of the scope's keys",
            hint="an owner issues it again with `pvback key rotate --level bundles`",
        )


def _choose_scope(keyring: "Keyring", wanted: str | None) -> str:
    scopes = keyring.scopes()
    if not scopes:
        raise WrongKeyError("this key opens no scope")
    if wanted is None and len(scopes) == 1:
        return scopes[0][0]
    fitting = [scope for scope, label in scopes if (wanted or DEFAULT_SCOPE) in (label, scope)]
    if len(fitting) == 1:
        return fitting[0]
    labels = ", ".join(sorted(label for _, label in scopes))
    raise UsageError(f"no such scope: {wanted or DEFAULT_SCOPE}", hint=f"this key opens: {labels}")


def _plan_chunker(average: int) -> dict[str, object]:
    if average % 4096 or not 0 < average <= 8 * limits.MIB:
        raise UsageError(
            "the average chunk size is out of bounds", hint="give a multiple of 4 KiB, at most 8 MiB"
        )
    return {
        "id": "argmin32",
        "min": average // 2,
        "average": average,
        "max": average * 3 // 2,
        "fixed": limits.CHUNK_BYTES_FIXED,
    }
