"""Where the cluster of this machine is: its folder, its addresses, its names. There is one on a machine."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

HOME = Path("/var/lib/pvback-test-cluster")
KUBECONFIG = HOME / "admin.kubeconfig"
PROCESSES = HOME / "processes"
LOGS = HOME / "logs"
CERTIFICATES = HOME / "certificates"
STORAGE = HOME / "storage"
CSI_SOCKET = HOME / "csi.sock"

BRIDGE = "pvback0"
CGROUP = "pvback-test"

# 10.213/16, of which nothing leaves this machine: a bridge without any other interface, no forwarding.
NETWORK = IPv4Network((10 << 24 | 213 << 16, 16))
HOSTS = IPv4Network((int(NETWORK[0]), 24))
SERVICES = IPv4Network((int(NETWORK[128 << 8]), 24))
PODS = IPv4Network((int(NETWORK[64 << 8]), 18))

HOST_ADDRESS: IPv4Address = HOSTS[1]
"""This machine as pods see it: what shall be reached from a pod listens here."""
SERVICE_ADDRESS: IPv4Address = SERVICES[1]
API_PORT = 6443
API = f"https://{HOST_ADDRESS}:{API_PORT}"

DOMAIN = "cluster.local"
CSI_DRIVER = "csi.pvback.test"
TOPOLOGY_KEY = "topology.csi.pvback.test/node"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: namespaces of this one."""

    number: int

    @property
    def name(self) -> str:
        return f"n{self.number}"

    @property
    def home(self) -> Path:
        return HOME / self.name

    @property
    def address(self) -> IPv4Address:
        return HOSTS[10 + self.number]

    @property
    def pods(self) -> IPv4Network:
        return IPv4Network((int(PODS[self.number << 8]), 24))

    @property
    def link(self) -> str:
        """This machine's end of the cable."""
        return f"pvback-{self.name}"

    @property
    def containerd(self) -> Path:
        return self.home / "containerd.sock"

    @property
    def kubelet(self) -> Path:
        """The kubelet's folder, the same inside and outside."""
        return self.home / "kubelet"

    @property
    def volumes(self) -> Path:
        """Where static volumes are."""
        return self.home / "volumes"

    @property
    def cgroup(self) -> str:
        return f"/{CGROUP}/{self.name}"


NODES = (Node(1), Node(2))
