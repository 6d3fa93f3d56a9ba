package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const loopFile = "loop" // beside the image: the loop device that is on it

type nodeServer struct {
	csi.UnimplementedNodeServer
	store
	node  string
	mutex sync.Mutex
}

func (n *nodeServer) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	topology := &csi.Topology{Segments: map[string]string{topologyKey: n.node}}
	return &csi.NodeGetInfoResponse{NodeId: n.node, AccessibleTopology: topology}, nil
}

func (n *nodeServer) NodeGetCapabilities(
	context.Context, *csi.NodeGetCapabilitiesRequest,
) (*csi.NodeGetCapabilitiesResponse, error) {
	answer := &csi.NodeGetCapabilitiesResponse{}
	for _, kind := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		csi.NodeServiceCapability_RPC_EXPAND_VOLUME,
		csi.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: kind}},
		})
	}
	return answer, nil
}

// find refuses a volume of another node: the scheduler must have heeded the topology.
func (n *nodeServer) find(id string) (volume, string, error) {
	found, err := n.findVolume(id)
	if err == nil && found.Node != n.node && found.Node != anyNode {
		err = status.Errorf(codes.FailedPrecondition, "%s is on node %s", id, found.Node)
	}
	return found, n.volumeFolder(found), err
}

func (n *nodeServer) NodeStageVolume(
	_ context.Context, request *csi.NodeStageVolumeRequest,
) (*csi.NodeStageVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	found, folder, err := n.find(request.VolumeId)
	if err != nil || found.Sort == sortFolder {
		return &csi.NodeStageVolumeResponse{}, err
	}
	device, err := attach(folder, content(folder, found.Sort))
	if err != nil || found.Sort == sortBlock {
		return &csi.NodeStageVolumeResponse{}, err
	}
	return &csi.NodeStageVolumeResponse{}, n.mountExt4(device, request.StagingTargetPath)
}

func (n *nodeServer) mountExt4(device, target string) error {
	if mounted(target) {
		return nil
	}
	if kind, _ := output("blkid", "-p", "-o", "value", "-s", "TYPE", device); kind == "" {
		// With lost+found, and nothing put aside for the owner of the machine: as the drivers of clouds do it.
		if err := run("mkfs.ext4", "-q", "-m", "0", device); err != nil {
			return err
		}
	}
	// The file may have grown, or be a copy of a smaller one.
	if err := errors.Join(check(device), run("resize2fs", device)); err != nil {
		return err
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return err
	}
	return unix.Mount(device, target, "ext4", 0, "")
}

// check repairs what can be repaired without asking; a volume snapshot of a mounted volume has a journal to replay.
func check(device string) error {
	_, err := output("e2fsck", "-f", "-p", device)
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	return err
}

func (n *nodeServer) NodeUnstageVolume(
	_ context.Context, request *csi.NodeUnstageVolumeRequest,
) (*csi.NodeUnstageVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	found, folder, err := n.find(request.VolumeId)
	if status.Code(err) == codes.NotFound {
		return &csi.NodeUnstageVolumeResponse{}, nil
	}
	if err == nil && found.Sort != sortFolder {
		err = errors.Join(unmount(request.StagingTargetPath), detach(folder))
	}
	return &csi.NodeUnstageVolumeResponse{}, err
}

func (n *nodeServer) NodePublishVolume(
	_ context.Context, request *csi.NodePublishVolumeRequest,
) (*csi.NodePublishVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	found, folder, err := n.find(request.VolumeId)
	if err != nil || mounted(request.TargetPath) {
		return &csi.NodePublishVolumeResponse{}, err
	}
	source := request.StagingTargetPath
	switch found.Sort {
	case sortFolder:
		source = content(folder, found.Sort)
	case sortBlock:
		if source, err = attached(folder); err != nil {
			return nil, err
		}
	}
	return &csi.NodePublishVolumeResponse{}, bind(source, request.TargetPath, request.Readonly)
}

func (n *nodeServer) NodeUnpublishVolume(
	_ context.Context, request *csi.NodeUnpublishVolumeRequest,
) (*csi.NodeUnpublishVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	return &csi.NodeUnpublishVolumeResponse{}, errors.Join(unmount(request.TargetPath), os.RemoveAll(request.TargetPath))
}

func (n *nodeServer) NodeExpandVolume(
	_ context.Context, request *csi.NodeExpandVolumeRequest,
) (*csi.NodeExpandVolumeResponse, error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	found, folder, err := n.find(request.VolumeId)
	if err != nil || found.Sort == sortFolder {
		return &csi.NodeExpandVolumeResponse{CapacityBytes: found.Size}, err
	}
	device, err := attached(folder)
	if err == nil {
		err = run("losetup", "-c", device)
	}
	if err == nil && found.Sort == sortExt4 {
		err = run("resize2fs", device)
	}
	return &csi.NodeExpandVolumeResponse{CapacityBytes: found.Size}, err
}

func (n *nodeServer) NodeGetVolumeStats(
	_ context.Context, request *csi.NodeGetVolumeStatsRequest,
) (*csi.NodeGetVolumeStatsResponse, error) {
	found, _, err := n.find(request.VolumeId)
	if err != nil {
		return nil, err
	}
	usage := &csi.VolumeUsage{Unit: csi.VolumeUsage_BYTES, Total: found.Size}
	if found.Sort != sortBlock {
		var facts unix.Statfs_t
		if err := unix.Statfs(request.VolumePath, &facts); err != nil {
			return nil, status.Error(codes.NotFound, err.Error())
		}
		usage.Total = int64(facts.Blocks) * facts.Bsize
		usage.Available = int64(facts.Bavail) * facts.Bsize
		usage.Used = int64(facts.Blocks-facts.Bfree) * facts.Bsize
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{usage}}, nil
}

func attached(folder string) (string, error) {
	device, err := os.ReadFile(filepath.Join(folder, loopFile))
	return string(device), err
}

func attach(folder, image string) (string, error) {
	if device, err := attached(folder); err == nil {
		return device, nil
	}
	device, err := output("losetup", "--find", "--show", image)
	if err != nil {
		return "", err
	}
	return device, os.WriteFile(filepath.Join(folder, loopFile), []byte(device), 0o640)
}

func detach(folder string) error {
	device, err := attached(folder)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, run("losetup", "--detach", device), os.Remove(filepath.Join(folder, loopFile)))
}

func bind(source, target string, readonly bool) error {
	facts, err := os.Stat(source)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	if facts.IsDir() {
		err = os.MkdirAll(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if readonly {
		return unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	}
	return nil
}

func mounted(path string) bool {
	table, err := os.ReadFile("/proc/self/mountinfo")
	return err == nil && strings.Contains(string(table), " "+path+" ")
}

func unmount(path string) error {
	err := unix.Unmount(path, 0)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}
