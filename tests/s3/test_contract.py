"""The contract of object stores, on every S3 server, bare and below wrappers.

What a server lacks is named here, and the probe has to notice it: the tests that rest on it are left out for
that server, and nothing else.
"""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings

from pvback import limits
from pvback.errors import ObjectNotFound
from pvback.storage import ObjectStore
from pvback.storage.metered import MeteredStore
from pvback.storage.probe import Conditions, probe_conditions
from tests.contracts import test_object_store as contract
from tests.contracts.stores import settling
from tests.s3.conftest import server_named, store_on, use_credentials

pytestmark = pytest.mark.timeout(300)  # a server starts within it

CONDITIONS = {
    "minio": Conditions(creates=True, swaps=True),
    "moto": Conditions(creates=True, swaps=True),
    "rclone": Conditions(creates=False, swaps=False),
}
RESTS_ON_CONDITIONS = {
    "test_create_refuses_what_is_there",
    "test_swap_needs_the_etag_of_what_is_there",
    "test_swap_of_nothing_fails",
    "test_one_of_many_creates_wins",
    "test_no_swap_is_lost",
    "test_a_list_shows_once_what_is_replaced_meanwhile",
}
Make = Callable[..., ObjectStore]
KINDS: dict[str, tuple[str, Make]] = {
    "minio": ("minio", lambda server, _: store_on(server)),
    "minio-wrapped": ("minio", lambda server, seed: MeteredStore(settling(store_on(server), seed))),
    "minio-parts": (
        "minio",
        lambda server, _: store_on(server, multipart_bytes=1, part_bytes=limits.S3_PART_BYTES_MIN),
    ),
    "moto": ("moto", lambda server, _: store_on(server)),
    "rclone": ("rclone", lambda server, _: store_on(server)),
}

# Collected from here, they take the `store` of this module.
globals().update(
    {
        name: value
        for name, value in vars(contract).items()
        if name.startswith("test_") and name != "test_behaves_like_a_dictionary"
    }
)


@pytest.fixture(params=KINDS)
def store(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, seed: int
) -> Iterator[ObjectStore]:
    name, make = KINDS[request.param]
    lacks = not CONDITIONS[name].hold and request.function.__name__ in RESTS_ON_CONDITIONS
    if lacks:
        pytest.skip(f"{name} ignores conditions on writes, and the probe says so")
    server = server_named(request, name)
    use_credentials(monkeypatch, server)
    made = make(server, seed)
    yield made
    made.close()


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_probe_sees_what_a_server_keeps(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server = server_named(request, name)
    use_credentials(monkeypatch, server)
    store = store_on(server)
    found = probe_conditions(store)
    assert (found.creates, found.swaps) == (CONDITIONS[name].creates, CONDITIONS[name].swaps), found.broken
    # rclone goes on listing, even twice, what was removed right after racing writes; nobody can read it.
    for listed in store.list_objects(""):
        assert not CONDITIONS[name].hold, listed
        with pytest.raises(ObjectNotFound):
            store.read(listed.key)
    store.close()


@settings(max_examples=10)
@given(steps=contract.STEPS)
def test_behaves_like_a_dictionary(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str]]
) -> None:
    server = server_named(request, "minio")
    use_credentials(monkeypatch, server)
    with_store = store_on(server)
    contract.check_like_a_dictionary(with_store, steps)
    with_store.close()
