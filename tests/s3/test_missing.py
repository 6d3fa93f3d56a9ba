"""Objects that are missing, where the service answers 403 in place of 404, as AWS does to many."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from pvback.errors import ObjectNotFound, StorageError, StorageUnavailable
from pvback.storage import ObjectStore
from tests.s3.conftest import store_on
from tests.support.fault_proxy import Fault, FaultProxy, Rule, fault_proxy
from tests.support.s3_servers import S3Server

pytestmark = pytest.mark.timeout(300)  # a server starts within it
DENIED = Rule(
    fault=Fault.REFUSE,
    methods=("GET", "HEAD"),
    path=r"^[^?]*/(missing|there)(\?|$)",
    count=99,
    status=403,
    code="AccessDenied",
)


@pytest.fixture
def proxy(service: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(service) as made:
        yield made


@pytest.fixture
def store(proxy: FaultProxy) -> Iterator[ObjectStore]:
    made = store_on(proxy.server)
    made.put("there", b"some bytes")
    made.put("missing-beside", b"what begins like it")
    yield made
    made.close()


READS: list[Callable[[ObjectStore, str], object]] = [
    lambda store, key: store.read(key),
    lambda store, key: store.read_range(key, offset=0, length=4),
    lambda store, key: store.read_into(key, bytearray(4), offset=0),
    lambda store, key: store.head(key),
]


@pytest.mark.parametrize("read", READS, ids=["read", "range", "into", "head"])
def test_a_list_tells(
    proxy: FaultProxy, store: ObjectStore, read: Callable[[ObjectStore, str], object]
) -> None:
    proxy.obey(replace(DENIED))
    with pytest.raises(ObjectNotFound):
        read(store, "missing")
    with pytest.raises(StorageError, match="access denied") as caught:
        read(store, "there")
    assert not isinstance(caught.value, ObjectNotFound | StorageUnavailable)
    # Who may not list is told what the service said.
    proxy.obey(replace(DENIED, path=""))
    with pytest.raises(StorageError, match="access denied"):
        read(store, "missing")
