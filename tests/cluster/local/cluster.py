"""The cluster as a whole: up, down, and what it is at the moment."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.local import control, nodes, processes, storage
from tests.cluster.local.cgroups import make_cgroups, remove_cgroups
from tests.cluster.local.images import load_image, make_images
from tests.cluster.local.layout import BRIDGE, HOME, NETWORK, NODES, Node
from tests.cluster.local.programs import build_programs, check_system

READY_SECONDS_MAX = 180.0
UP = HOME / "up"


def up() -> bool:
    """Bring the cluster up; False when it was. Where it does not come, raises and leaves nothing."""
    with _alone():
        if is_up():
            return False
        if os.geteuid():
            raise PermissionError("a cluster on this machine needs root")
        check_system()
        programs = build_programs()
        _tear_down()
        _check_network()
        try:
            _build_up(programs)
        except BaseException:
            for name in processes.names():
                print(f"== {name}\n{processes.log_end(name)}")
            _tear_down()
            raise
        UP.touch()
        return True


def is_up() -> bool:
    """Whether there is a cluster that came up whole."""
    return UP.exists() and processes.running("kube-apiserver") is not None


def down() -> None:
    """End every process of the cluster and remove what it has made. Nothing else is touched."""
    with _alone():
        _tear_down()


def _build_up(programs: Path) -> None:
    HOME.mkdir(mode=0o755)
    make_cgroups()
    nodes.make_bridge()
    control.make_identities()
    control.start_apiserver(control.start_etcd())
    archives = make_images(HOME / "images", programs=programs, busybox=Path(shutil.which("busybox") or ""))

    def make_node(node: Node) -> None:
        nodes.start_machine(node)
        nodes.start_runtime(node)
        nodes.start_driver(node)
        for archive in archives:
            load_image(archive, programs=programs, nodes=[node])

    with ThreadPoolExecutor(len(NODES)) as pool:
        waiting = [pool.submit(make_node, node) for node in NODES]
        control.wait_for_api()
        control.start_controllers()
        control.start_dns()
        storage.define_storage()
        storage.start_controllers()
        for one in waiting:
            one.result()
    for node in NODES:
        nodes.start_kubelet(node)
        nodes.start_proxy(node)
    processes.wait_for(_is_ready, "the nodes are not ready", seconds=READY_SECONDS_MAX)


def _is_ready() -> bool:
    """Both nodes are ready, the driver is on both, and pods can be made."""
    for name in processes.names():
        if processes.running(name) is None:
            raise RuntimeError(f"{name} ended:\n{processes.log_end(name)}")
    for node in NODES:
        try:
            found = json.loads(storage.kubectl("get", "node", node.name, "-o", "json"))
            driver = storage.kubectl("get", "csinode", node.name, "-o", "jsonpath={.spec.drivers[*].name}")
            storage.kubectl("get", "serviceaccount", "default")
        except RuntimeError:
            return False
        conditions = {one["type"]: one["status"] for one in found["status"].get("conditions", [])}
        if conditions.get("Ready") != "True" or not driver or found["spec"].get("taints"):
            return False
    return True


def _tear_down() -> None:
    for name in processes.names():
        if not name.startswith("init-"):
            processes.stop(name, kill=True)
    for node in NODES:
        nodes.stop_machine(node)
    storage.detach_loops()
    subprocess.run(["ip", "link", "delete", BRIDGE], check=False, capture_output=True)
    remove_cgroups()
    _remove_home()


def _remove_home() -> None:
    # The last mounts go a moment after the last process that was in their namespace.
    end = time.monotonic() + 10
    while HOME.exists():
        try:
            shutil.rmtree(HOME)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(processes.POLL_SECONDS)


def _check_network() -> None:
    done = subprocess.run(
        ["ip", "route", "show", "root", str(NETWORK)], check=True, capture_output=True, text=True
    )
    if done.stdout.strip():
        raise RuntimeError(f"{NETWORK} is in use on this machine: {done.stdout.strip()}")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One program at a time: a name that goes with its holder."""
    with socket.socket(socket.AF_UNIX) as lock:
        try:
            lock.bind(f"\0{HOME.name}")
        except OSError as exc:
            raise RuntimeError("the cluster is just being brought up or down") from exc
        yield


def status() -> str:
    """One line for each process."""
    lines = [f"{name}: {processes.running(name) or 'ended'}" for name in processes.names()]
    return "\n".join(lines) or "there is no cluster"
