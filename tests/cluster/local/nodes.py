"""Nodes: each has its own mounts, network, processes and name, and writes beside this machine's files."""

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.cluster.local import processes
from tests.cluster.local.control import kubeconfig
from tests.cluster.local.images import PAUSE
from tests.cluster.local.layout import (
    BRIDGE,
    CERTIFICATES,
    CSI_DRIVER,
    DOMAIN,
    HOME,
    HOST_ADDRESS,
    HOSTS,
    NODES,
    PODS,
    STORAGE,
    Node,
)
from tests.cluster.local.programs import CNI_PLUGINS, find_programs

INIT = Path(__file__).with_name("node_init.sh")


def make_bridge() -> None:
    """The network between this machine and the nodes; no other interface is ever put into it."""
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{HOST_ADDRESS}/{HOSTS.prefixlen}", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")


def start_machine(node: Node) -> None:
    """The namespaces of a node with nothing in them but the network."""
    for name in ("upper", "work", "root", "kubelet", "volumes", "cni", "containerd"):
        (node.home / name).mkdir(parents=True, exist_ok=True)
    ready = node.home / "ready"
    ready.unlink(missing_ok=True)
    argv = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "bash", str(INIT)]
    processes.start(init_name(node), [*argv, str(HOME), node.name, str(find_programs())], forks=True)
    try:
        processes.wait_for(ready.exists, f"{node.name} has no root", seconds=10)
    except TimeoutError as exc:
        raise RuntimeError(f"{exc}:\n{processes.log_end(init_name(node))}") from exc
    _cable(node)


def _cable(node: Node) -> None:
    inner = processes.running(init_name(node))
    _ip("link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", str(inner))
    _ip("link", "set", node.link, "master", BRIDGE, "up")
    _ip("route", "replace", str(node.pods), "via", str(node.address))
    inside = ["nsenter", "-t", str(inner), "-n", "-m", "--"]
    _ip("address", "add", f"{node.address}/{HOSTS.prefixlen}", "dev", "eth0", inside=inside)
    _ip("link", "set", "lo", "up", inside=inside)
    _ip("link", "set", "eth0", "up", inside=inside)
    # Service addresses need a route before kube-proxy turns them into others. It leads to this machine only.
    _ip("route", "add", "default", "via", str(HOST_ADDRESS), inside=inside)
    for other in NODES:
        if other != node:
            _ip("route", "add", str(other.pods), "via", str(other.address), inside=inside)
    subprocess.run([*inside, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True)


def start_runtime(node: Node) -> None:
    """Start containerd; returns when it answers."""
    programs = find_programs()
    network = {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isDefaultGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": str(node.pods)}]]},
            }
        ],
    }
    (node.home / "cni/10-pods.conflist").write_text(json.dumps(network))
    config = node.home / "containerd.toml"
    config.write_text(_CONTAINERD.format(node=node, pause=PAUSE, cni=CNI_PLUGINS))
    search = f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"
    argv = [str(programs / "containerd"), "--config", str(config), "--log-level", "info"]
    processes.start(f"containerd-{node.name}", argv, inside=init_name(node), variables={"PATH": search})
    ask = [str(programs / "ctr"), "-a", str(node.containerd), "version"]
    processes.wait_for(
        lambda: subprocess.run(ask, capture_output=True, check=False).returncode == 0,
        f"containerd of {node.name} does not answer",
        seconds=30,
    )


_CONTAINERD = """\
version = 3
root = "{node.home}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.nri.v1.nri",
  "io.containerd.image-verifier.v1.bindir",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = "{node.containerd}"

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{pause}"

[plugins."io.containerd.cri.v1.runtime"]
  # The machine need not have it, and nothing here is about it.
  disable_apparmor = true
  # In a container without CAP_SYS_RESOURCE nobody may ask for less than he has.
  restrict_oom_score_adj = true
  # A pod that is not root may open its block device.
  device_ownership_from_security_context = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{cni}"]
    conf_dir = "{node.home}/cni"
"""


def start_kubelet(node: Node) -> None:
    """Start the kubelet."""
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": str(node.address),
        "healthzPort": 0,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(CERTIFICATES / "ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(CERTIFICATES / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(CERTIFICATES / f"{node.name}.key"),
        "containerRuntimeEndpoint": f"unix://{node.containerd}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": node.cgroup,
        "failCgroupV1": False,
        "failSwapOn": False,
        "clusterDNS": [str(HOST_ADDRESS)],
        "clusterDomain": DOMAIN,
        "resolvConf": "",
        "volumePluginDir": str(node.home / "flexvolume"),
        "imageGCHighThresholdPercent": 100,
        # The disk is this machine's and may be rather full.
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1%",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1%",
        },
        # It is renewed each quarter of that.
        "nodeLeaseDurationSeconds": 8,
        "nodeStatusUpdateFrequency": "5s",
        "logging": {"verbosity": 2},
    }
    path = node.home / "kubelet.json"
    path.write_text(json.dumps(config))
    argv = [str(find_programs() / "kubelet"), f"--config={path}", f"--kubeconfig={kubeconfig(node.name)}"]
    argv += [f"--root-dir={node.kubelet}", f"--hostname-override={node.name}", f"--node-ip={node.address}"]
    argv += [f"--cert-dir={node.home}/pki"]
    processes.start(f"kubelet-{node.name}", argv, inside=init_name(node))


def start_proxy(node: Node) -> None:
    """Start kube-proxy: service addresses lead somewhere."""
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig("proxy"))},
        "clusterCIDR": str(PODS),
        "hostnameOverride": node.name,
        "bindAddress": str(node.address),
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        # What is counted in the whole machine is not for a node to set.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"localhostNodePorts": False},
    }
    path = node.home / "proxy.json"
    path.write_text(json.dumps(config))
    processes.start(
        f"kube-proxy-{node.name}",
        [str(find_programs() / "kube-proxy"), f"--config={path}"],
        inside=init_name(node),
    )


def start_driver(node: Node) -> None:
    """Start the node's part of the CSI driver, which tells the kubelet of itself."""
    argv = [str(find_programs() / "csi-driver"), f"-root={STORAGE}", f"-node={node.name}"]
    argv += [f"-endpoint={node.kubelet}/plugins/{CSI_DRIVER}/csi.sock"]
    argv += [f"-registration={node.kubelet}/plugins_registry/{CSI_DRIVER}-reg.sock"]
    processes.start(f"csi-driver-{node.name}", argv, inside=init_name(node))


def stop_machine(node: Node) -> None:
    """What a power cut does: every process of the node ends at once, its mounts and its network are gone."""
    pid = processes.running(init_name(node))
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        processes.wait_for(lambda: processes.running(init_name(node)) is None, "init stays", seconds=20)
    # The cable goes with its other end, but not at once.
    subprocess.run(["ip", "link", "delete", node.link], check=False, capture_output=True)


def start_node(node: Node) -> None:
    """A node with all its services, of which the kubelet reports when it is ready."""
    start_machine(node)
    start_runtime(node)
    start_driver(node)
    start_kubelet(node)
    start_proxy(node)


def init_name(node: Node) -> str:
    """The name of the node's first process."""
    return f"init-{node.name}"


def _ip(*argv: str, inside: list[str] | None = None) -> None:
    done = subprocess.run([*(inside or []), "ip", *argv], check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(argv)}: {done.stderr.strip()}")
