"""The only importer of the native module: keys, digests, and jobs that move bytes.

A job asks for things and this module does them, in as many threads as the store deserves, until there is
nothing left to ask; see "The native seam" in docs/architecture.md. Guarantees:

- Outputs are handed over one at a time, each after the one before it was dealt with.
- A put is answered when the object is durable. One that finds its own bytes under its name has succeeded:
  the answer to an earlier attempt was lost.
- When a job fails because the store did, the store's own exception is raised, not the job's echo of it; the
  same holds for what an output's receiver raises.
- When `DataJob.run` returns or raises, no thread of it is left and no request is under way.
"""

import importlib
import json
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pvback import limits
from pvback.errors import (
    InternalError,
    Interrupted,
    ObjectNotFound,
    PvbackError,
    StorageError,
)
from pvback.retrying import CreatingStore, Patience, create_own
from pvback.runtime import Cancel, Counters, SystemClock, parse_counters, waiting_under

if TYPE_CHECKING:
    from pvback._native import Keyring, Request, Stretched

__all__ = [
    "Argon2",
    "DataJob",
    "JobControl",
    "JobStore",
    "Keyring",
    "Listeners",
    "NewRepository",
    "Stretched",
    "UnlockMethod",
    "blake3",
    "create_keys",
    "key_pair",
    "load_native",
    "native_version",
    "random_id",
    "recovery_key",
    "run_job",
    "stretch",
    "unlock",
]

UnlockMethod = Literal["passphrase", "x25519", "secret"]
Argon2 = tuple[int, int, int]
"""Memory in KiB, passes, lanes."""


class JobStore(CreatingStore, Protocol):
    """What a job needs of an object store; see `pvback.storage.ObjectStore` for what each promises."""

    def read_into(self, key: str, buffer: memoryview, *, offset: int) -> int:
        """Fill `buffer` from `offset` on; the number of bytes read. Raises ObjectNotFound."""
        ...


@dataclass(frozen=True, slots=True)
class NewRepository:
    """What `init` has to store, and the keyring that opens it."""

    keyring: "Keyring"
    config: bytes
    key_name: str
    key_object: bytes


def load_native() -> Any:  # noqa: ANN401 - a module has no type of its own
    """The extension; InternalError with a hint where it is not built for this machine."""
    try:
        return importlib.import_module("pvback._native")
    except ImportError as exc:
        raise InternalError(
            f"the native module does not load: {exc}",
            hint="run `make build`; `python -m pvback.reference` can list and restore without it",
        ) from exc


def native_version() -> str:
    """The extension's version."""
    return str(load_native().__version__)


def blake3(data: bytes) -> str:
    """BLAKE3 of data, in hex."""
    digest: bytes = load_native().blake3(data)
    return digest.hex()


def random_id() -> str:
    """16 bytes from the operating system, in hex."""
    return str(load_native().random_id())


def recovery_key() -> str:
    """160 random bits to write down: eight groups of four digits and small letters, joined by `-`."""
    return str(load_native().recovery_key())


def key_pair() -> tuple[bytes, bytes]:
    """A new X25519 key pair, private and public: 32 bytes each."""
    private, public = load_native().key_pair()
    return bytes(private), bytes(public)


def create_keys(
    label: str,
    *,
    chunker: Mapping[str, object],
    passphrase: bytes,
    argon2: Argon2,
    is_conditional: bool = True,
) -> NewRepository:
    """Keys, `config` and key object of a new repository; stores nothing. Raises UsageError.

    `config` will say whether the store keeps conditions on writes.
    """
    made = load_native().Keyring.init_repository(
        label, json.dumps(chunker), passphrase, argon2, conditional=is_conditional
    )
    return NewRepository(*made)


def unlock(
    config: bytes,
    key_objects: Sequence[tuple[str, bytes]],
    *,
    method: UnlockMethod,
    secret: bytes,
    stretched: "Stretched | None" = None,
) -> "Keyring":
    """The first key bundle that `secret` opens. Raises WrongKeyError, DamagedError or as `config` does.

    `stretched`, made of whatever, saves time where it fits.
    """
    keyring: Keyring = load_native().Keyring.unlock(config, list(key_objects), method, secret, stretched)
    return keyring


def stretch(passphrase: bytes, *, salt: bytes, argon2: Argon2) -> "Stretched":
    """What a passphrase is with this salt, for `unlock`. Raises UsageError, UnsupportedFormatError."""
    made: Stretched = load_native().Stretched(passphrase, salt, argon2)
    return made


class JobControl(Protocol):
    """What a listener may do to the job that it listens to."""

    def command(self, name: str, options: Mapping[str, object]) -> dict[str, Any] | None:
        """Ask the job for something and return its answer; None when it has ended meanwhile.

        Not from an output's receiver: the answer may have to wait for requests.
        """
        ...

    def cancel(self) -> None:
        """Make the job fail with Interrupted soon. Safe to repeat, from any thread."""
        ...


def _ignore_output(_kind: str, _data: memoryview) -> None:
    """A job without a listener has nothing to say."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who hears what a job says.

    Attributes:
        on_output: Called with the kind and the bytes of an output, which are valid during the call only.
        on_counters: Called in the thread of `run`, every `limits.PROGRESS_SECONDS`.
        on_tick: Likewise, with the job's control. What it raises ends the job and is raised by `run`.
        on_cancel: Called on each tick once `cancel` is set; by default the job is cancelled at once.
        cancel: The user's wish to stop.
        is_idle: Nobody ticks, so that a job that waits for questions costs nothing: `DataJob.cancel` ends it.
    """

    on_output: Callable[[str, memoryview], None] = _ignore_output
    on_counters: Callable[[Counters], None] | None = None
    on_tick: Callable[[JobControl], None] | None = None
    on_cancel: Callable[[JobControl], None] = lambda control: control.cancel()
    cancel: Cancel = field(default_factory=Cancel)
    is_idle: bool = False


class DataJob:
    """One native job with the threads that serve it. Use `run_job` unless the job has to be talked to."""

    def __init__(
        self,
        verb: str,
        keyring: "Keyring",
        *,
        options: Mapping[str, object],
        store: JobStore,
        source: "Keyring | None" = None,
        patience: Patience | None = None,
    ) -> None:
        self._store, self._patience = store, patience
        # Set when nobody waits for the job's requests any more; the wish to stop in order is another one.
        self._stop = Cancel()
        self._threads_count = _thread_count(options)
        self._ended = threading.Event()
        self._output_lock = threading.Lock()
        self._errors_lock = threading.Lock()
        # Of a job that stays open for days, the last ones.
        self._store_errors: deque[PvbackError] = deque(maxlen=64)
        self._listener_error: BaseException | None = None
        self._job = load_native().Job.start(verb, keyring, json.dumps(options), source)

    def command(self, name: str, options: Mapping[str, object]) -> dict[str, Any] | None:
        """See `JobControl.command`."""
        try:
            return self.ask(name, options)
        except PvbackError:
            # A job that ends while it is asked fails the question; its own result says how it went.
            if self._ended.wait(limits.JOB_END_SECONDS):
                return None
            raise

    def ask(self, name: str, options: Mapping[str, object]) -> dict[str, Any]:
        """A command to a job that is open for them; raises what it fails with. From any thread."""
        return dict(json.loads(self._job.command(name, json.dumps(options))))

    def read(self, file: int, *, offset: int, length: int) -> bytes:
        """A range of a file that a `browse` job has open, shorter only at its end. Raises as `ask`."""
        return bytes(self._job.read(file, offset, length))

    def cancel(self) -> None:
        """See `JobControl.cancel`. Its requests do not wait any more for a store that is away."""
        self._job.cancel()
        self._stop.set()

    def run(self, listeners: Listeners) -> dict[str, Any]:
        """Serve the job to its end and return its result. Raises what it, its store or a listener raised."""
        left = threading.Semaphore(0)
        threads = [
            threading.Thread(target=self._serve, args=(listeners, left), name="pvback-serve", daemon=True)
            for _ in range(self._threads_count)
        ]
        watcher = threading.Thread(target=_wait_for, args=(left, len(threads), self._ended), daemon=True)
        for thread in (*threads, watcher):
            thread.start()
        try:
            self._watch(listeners)
        except BaseException as exc:  # noqa: BLE001 - raised again when all threads have ended
            self._note_listener_error(exc)
            self.cancel()
        finally:
            for thread in (*threads, watcher):
                thread.join()
        return self._result(listeners.cancel)

    def _watch(self, listeners: Listeners) -> None:
        while not self._ended.wait(None if listeners.is_idle else limits.PROGRESS_SECONDS):
            if listeners.on_counters is not None:
                listeners.on_counters(parse_counters(self._job.progress()))
            if listeners.on_tick is not None:
                listeners.on_tick(self)
            if listeners.cancel.is_set:
                listeners.on_cancel(self)
        if listeners.on_counters is not None:
            listeners.on_counters(parse_counters(self._job.progress()))

    def _serve(self, listeners: Listeners, left: threading.Semaphore) -> None:
        try:
            with waiting_under(self._stop):
                while (request := self._job.next_request()) is not None:
                    self._answer(request, listeners)
                    # Or its pack stays in memory until this thread has something to do again.
                    del request
        except BaseException as exc:  # noqa: BLE001 - a thread has nobody else to tell
            self._note_listener_error(exc)
            self.cancel()
        finally:
            left.release()

    def _answer(self, request: "Request", listeners: Listeners) -> None:
        try:
            if request.kind == "get":
                self._get(request)
            elif request.kind == "put":
                self._put(request)
            else:
                with self._output_lock:
                    listeners.on_output(request.key, memoryview(request))
                request.complete()
        except PvbackError as exc:
            # What was given up is no failure of whoever listens.
            if request.kind == "output" and not (self._stop.is_set and isinstance(exc, Interrupted)):
                self._note_listener_error(exc)
            else:
                with self._errors_lock:
                    self._store_errors.append(exc)
            request.fail(_failure_kind(exc), exc.what)
        except BaseException as exc:  # noqa: BLE001 - raised again in the thread of `run`
            request.fail("internal", "the request could not be served")
            self._note_listener_error(exc)
            self.cancel()

    def _put(self, request: "Request") -> None:
        create_own(
            self._store,
            request.key,
            data=memoryview(request),
            clock=SystemClock(),
            patience=self._patience,
            is_random=True,
        )
        request.complete()

    def _get(self, request: "Request") -> None:
        if request.length is None:
            request.complete(self._store.read(request.key).data)
            return
        with memoryview(request) as buffer:
            count = self._store.read_into(request.key, buffer, offset=request.offset)
        try:
            request.complete_filled(count)
        except BufferError:  # A read that was given up for a faster one writes no more, but holds a view.
            request.complete(memoryview(request)[:count])

    def _note_listener_error(self, exc: BaseException) -> None:
        with self._errors_lock:
            if self._listener_error is None:
                self._listener_error = exc

    def _result(self, cancel: Cancel) -> dict[str, Any]:
        try:
            result: dict[str, Any] = json.loads(self._job.result())
        except PvbackError as exc:
            if self._listener_error is not None:
                raise self._listener_error from None
            if isinstance(exc, Interrupted):
                # Whoever asked has said why.
                cancel.check()
            raise self._original(exc) from None
        if self._listener_error is not None:
            raise self._listener_error
        return result

    def _original(self, echo: PvbackError) -> PvbackError:
        """The store's exception that `echo` repeats, or `echo` when it speaks of something else."""
        if not isinstance(echo, StorageError | Interrupted) or not self._store_errors:
            return echo
        same_key = [error for error in self._store_errors if error.key == echo.key]
        if isinstance(echo, Interrupted):
            same_key = [error for error in self._store_errors if isinstance(error, Interrupted)]
            return same_key[0] if same_key else echo
        return same_key[0] if same_key else self._store_errors[0]


def run_job(
    verb: str,
    keyring: "Keyring",
    *,
    options: Mapping[str, object],
    store: JobStore,
    listeners: Listeners | None = None,
    patience: Patience | None = None,
) -> dict[str, Any]:
    """Run a job to its end and return its result. Raises as `DataJob.run`."""
    job = DataJob(verb, keyring, options=options, store=store, patience=patience)
    return job.run(listeners or Listeners())


def _thread_count(options: Mapping[str, object]) -> int:
    """Threads that serve requests: the reads worth having in flight, the puts, and one for output."""
    gets, puts = options.get("gets"), options.get("puts", 0)
    assert isinstance(gets, int), "every job says how many reads it may have in flight"
    assert isinstance(puts, int), "a number of puts is whole"
    return gets + puts + 1


def _failure_kind(exc: PvbackError) -> str:
    if isinstance(exc, ObjectNotFound):
        return "not_found"
    if isinstance(exc, Interrupted):
        return "cancelled"
    return "storage" if isinstance(exc, StorageError) else "internal"


def _wait_for(left: threading.Semaphore, count: int, ended: threading.Event) -> None:
    """Set `ended` when all serving threads have left."""
    for _ in range(count):
        left.acquire()
    ended.set()
