"""Restores and the claims that name them, as the tests write them; a door that can be shut."""

import json
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pvback.cluster.client import Cluster as Door
from pvback.cluster.kinds import DEFINITION, RESTORE
from pvback.cluster.restores import restore_definition
from tests.cluster import objects
from tests.cluster.client import Namespace, wait_for
from tests.cluster.objects import Manifest

API = RESTORE.api_version


def install_kind(kubeconfig: str) -> None:
    """Let the cluster know the kind Restore; it stays, for it is the cluster's."""
    door = Door.connect(kubeconfig=kubeconfig)
    name = f"{RESTORE.plural}.{RESTORE.group}"
    door.apply(DEFINITION, DEFINITION.body(name, spec=restore_definition()))

    def is_served() -> bool:
        found = door.get(DEFINITION, name).get("status", {}).get("conditions") or ()
        return any((one["type"], one["status"]) == ("Established", "True") for one in found)

    wait_for(is_served, lambda: "the kind Restore is not served")


def restore(name: str, **spec: Any) -> Manifest:
    """What is to be restored: `source` and options."""
    return {"apiVersion": API, "kind": "Restore", "metadata": {"name": name}, "spec": spec}


def claim_of(name: str, wanted: str, *, storage_class: str, **wishes: Any) -> Manifest:
    """A claim that is to be filled from a Restore."""
    made = objects.claim(name, storage_class=storage_class, **wishes)
    made["spec"]["dataSourceRef"] = {"apiGroup": "pvback.io", "kind": "Restore", "name": wanted}
    return made


def status_of(namespace: Namespace, name: str) -> dict[str, Any]:
    """Of a Restore."""
    found: dict[str, Any] = namespace.get(API, "Restore", name).to_dict()
    return found.get("status") or {}


def claim_status(namespace: Namespace, wanted: str, claim: str) -> dict[str, Any]:
    """What a Restore says of a claim."""
    found = status_of(namespace, wanted).get("claims") or ()
    return next((one for one in found if one["name"] == claim), {})


def is_unbound(namespace: Namespace, claim: str) -> bool:
    """Whether a claim has no volume, nor is promised one."""
    found = namespace.get("v1", "PersistentVolumeClaim", claim).to_dict()
    return found["status"]["phase"] == "Pending" and "volumeName" not in found["spec"]


def volumes_of(namespace: Namespace) -> dict[str, dict[str, Any]]:
    """Volumes of a namespace's claims by name, whatever state they are in."""
    listed = namespace.cluster.kind("v1", "PersistentVolume").get().to_dict()["items"]
    return {
        one["metadata"]["name"]: one
        for one in listed
        if (one["spec"].get("claimRef") or {}).get("namespace") == namespace.name
    }


class Passage:
    """A TCP port of this machine behind which another one is, while it is open."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ends: list[socket.socket] = []
        self._is_open = threading.Event()
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        """Let through what comes from now on."""
        self._is_open.set()

    def shut(self) -> None:
        """Cut what goes through, and let nothing more."""
        self._is_open.clear()
        for one in self._ends:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._ends.clear()

    def close(self) -> None:
        """For good."""
        self.shut()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_open.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self._ends += [near, far]
            threading.Thread(target=_carry, args=(near, far), daemon=True).start()


def _carry(near: socket.socket, far: socket.socket) -> None:
    other = {near: far, far: near}
    with suppress(OSError, ValueError), near, far:
        while True:
            ready, _, _ = select.select([near, far], [], [])
            for one in ready:
                data = one.recv(1 << 16)
                if not data:
                    return
                other[one].sendall(data)


@contextmanager
def passage(url: str) -> Iterator[Passage]:
    """A passage to the host and port of a URL."""
    host, _, port = url.rpartition("//")[2].rstrip("/").rpartition(":")
    made = Passage(host, int(port))
    try:
        yield made
    finally:
        made.close()


def events_of(namespace: Namespace, claim: str) -> str:
    """What pvback has said of a claim."""
    listed = namespace.cluster.kind("v1", "Event").get(namespace=namespace.name).to_dict()["items"]
    ours = [one for one in listed if (one.get("source") or {}).get("component") == "pvback"]
    return json.dumps(
        [
            (one["type"], one["reason"], one["message"])
            for one in ours
            if one["involvedObject"]["name"] == claim
        ]
    )


def says(namespace: Namespace, wanted: str, claim: str, phase: str) -> Callable[[], bool]:
    """Whether a Restore says this of a claim."""
    return lambda: claim_status(namespace, wanted, claim).get("phase") == phase


def remove_populators_rights(namespace: Namespace) -> None:
    """What `install --populator` has made in the cluster for this namespace."""
    for kind in ("ClusterRoleBinding", "ClusterRole"):
        resource = namespace.cluster.kind("rbac.authorization.k8s.io/v1", kind)
        resource.delete(name=f"pvback-populator-{namespace.name}")
