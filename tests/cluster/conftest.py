"""A real cluster, and a fresh namespace of it for each test.

PVBACK_TEST_KUBECONFIG names a cluster of yours; without it, it is the one of `make cluster-up`.
There is no test here that is skipped because no cluster answers.
"""

import json
import os
import secrets
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.cluster import objects
from tests.cluster.client import Cluster, Namespace, connect, new_namespace, wait_until_gone
from tests.cluster.fleet import Fleet, wait_nothing_left
from tests.cluster.local import layout, storage
from tests.cluster.local.images import BUSYBOX, load_image
from tests.cluster.local.programs import find_programs
from tests.cluster.restores import install_kind
from tests.cluster.saved import Saved, save
from tests.cluster.spreading import spread
from tests.support.s3_servers import BUCKET, minio

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TIMEOUT_SECONDS = 600


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Iterator[None]:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.cluster)
            if not item.get_closest_marker("timeout"):
                item.add_marker(pytest.mark.timeout(TIMEOUT_SECONDS))
    yield
    # Those that were not asked for are gone now.
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = spread(
        items, is_long=lambda item: item.get_closest_marker("long") is not None, workers=workers
    )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster that the tests run on."""
    given = os.environ.get("PVBACK_TEST_KUBECONFIG")
    kubeconfig = Path(given or layout.KUBECONFIG)
    if not kubeconfig.exists():
        pytest.fail(f"{kubeconfig} is missing; run `make cluster-up` or set PVBACK_TEST_KUBECONFIG")
    is_local = kubeconfig == layout.KUBECONFIG
    made = connect(
        kubeconfig,
        is_local=is_local,
        image=os.environ.get("PVBACK_TEST_SHELL_IMAGE", BUSYBOX if is_local else "busybox:1.37"),
        storage_class=os.environ.get("PVBACK_TEST_STORAGE_CLASS", "csi"),
        snapshot_class=os.environ.get("PVBACK_TEST_SNAPSHOT_CLASS", "csi"),
        host_address=os.environ.get("PVBACK_TEST_HOST_ADDRESS", str(layout.HOST_ADDRESS) if is_local else ""),
    )
    yield made
    # The client's own `close` leaves its connections open.
    made.api.rest_client.pool_manager.clear()


@pytest.fixture(scope="session")
def namespace_names(cluster: Cluster) -> Iterator[list[str]]:
    """Namespaces that have to be gone in the end: each takes seconds that no test needs to wait."""
    names: list[str] = []
    yield names
    wait_until_gone(cluster, names)


@pytest.fixture
def namespace(cluster: Cluster, namespace_names: list[str]) -> Iterator[Namespace]:
    """A namespace with `restricted` pod security. What was in it is gone after the test, volumes too."""
    name = f"pvback-test-{secrets.token_hex(4)}"
    namespace_names.append(name)
    with new_namespace(cluster, objects.namespace(name)) as made:
        yield made


@pytest.fixture
def other(cluster: Cluster, namespace_names: list[str]) -> Iterator[Namespace]:
    """A second one."""
    name = f"pvback-test-{secrets.token_hex(4)}"
    namespace_names.append(name)
    with new_namespace(cluster, objects.namespace(name)) as made:
        yield made


@pytest.fixture
def local_cluster(cluster: Cluster) -> Cluster:
    """The cluster of this machine; what only it has is not asked of others."""
    if not cluster.is_local:
        # Its volumes on named nodes and its faulty classes are nowhere else.
        pytest.skip("needs the cluster of `make cluster-up`")
    return cluster


@pytest.fixture
def static_volume(local_cluster: Cluster) -> Iterator[Callable[..., str]]:
    """Makes volumes by hand on a node, of class `static`: `static_volume("n1", block=False, size_mib=64)`."""
    made: list[str] = []
    kind = local_cluster.kind("v1", "PersistentVolume")

    def make(node: str, **wishes: Any) -> str:
        name = f"static-{secrets.token_hex(4)}"
        made.append(name)
        on = next(one for one in layout.NODES if one.name == node)
        local_cluster.create(storage.make_static_volume(on, name, **wishes))
        return name

    yield make
    for name in made:
        kind.delete(name=name)
        storage.remove_static_volume(name)


@pytest.fixture(scope="session")
def host_address(cluster: Cluster) -> str:
    """An address of this machine that pods reach. On somebody's own cluster only they know one."""
    if not cluster.host_address:
        pytest.skip("set PVBACK_TEST_HOST_ADDRESS to an address of this machine that pods reach")
    return cluster.host_address


@pytest.fixture
def host_server(host_address: str) -> Iterator[str]:
    """The URL of a web server of this machine that pods reach; it answers everything with `hello`."""

    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello\n")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((host_address, 0), Hello) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{host_address}:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def mover_image(cluster: Cluster) -> str:
    """The image of movers, where nodes find it: PVBACK_TEST_IMAGE, or what `make image` has built."""
    given = os.environ.get("PVBACK_TEST_IMAGE")
    if given:
        return given
    built = ROOT / "build/image"
    if not cluster.is_local or not (built / "image.json").exists():
        pytest.fail("set PVBACK_TEST_IMAGE, or run `make image` for the cluster of this machine")
    load_image(built / "pvback.tar", programs=find_programs())
    name: str = json.loads((built / "image.json").read_text())["name"]
    return name


@pytest.fixture(scope="session")
def fleet(
    cluster: Cluster, host_address: str, mover_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A repository in a store that pods reach."""
    folder = tmp_path_factory.mktemp("fleet")
    actions = [f"s3:{one}" for one in ("GetObject", "PutObject", "ListBucket", "AbortMultipartUpload")]
    resources = [f"arn:aws:s3:::{BUCKET}", f"arn:aws:s3:::{BUCKET}/*"]
    # Movers never delete; what each role may do at all is in tests/s3/test_policies.py.
    allowed = {"Effect": "Allow", "Action": actions, "Resource": resources}
    policies = {"mover": {"Version": "2012-10-17", "Statement": [allowed]}}
    with minio(folder, address=host_address, policies=policies) as server:
        made = Fleet(folder=folder, server=server, kubeconfig=cluster.kubeconfig, image=mover_image)
        made.good("init", "-q")
        yield made


@pytest.fixture
def connected(fleet: Fleet, namespace: Namespace) -> Iterator[Namespace]:
    """A namespace whose movers have what they need; nothing of any run is left in it afterwards."""
    fleet.connect(namespace)
    yield namespace
    wait_nothing_left(namespace)


@pytest.fixture(scope="session")
def kind(cluster: Cluster) -> None:
    """The kind `Restore`."""
    install_kind(str(cluster.kubeconfig))


@pytest.fixture
def saved(fleet: Fleet, namespace: Namespace, kind: None) -> Iterator[Saved]:
    """A claim that was backed up, in a namespace where claims can be filled."""
    with save(fleet, namespace) as made:
        yield made
