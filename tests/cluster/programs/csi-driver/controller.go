package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

const defaultSize = 64 << 20

type controllerServer struct {
	csi.UnimplementedControllerServer
	store
	mutex  sync.Mutex     // one request at a time: all that is slow is copying
	failed map[string]int // how often a volume snapshot has failed, as its class wants it
}

func (c *controllerServer) ControllerGetCapabilities(
	context.Context, *csi.ControllerGetCapabilitiesRequest,
) (*csi.ControllerGetCapabilitiesResponse, error) {
	answer := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME,
		csi.ControllerServiceCapability_RPC_EXPAND_VOLUME,
		csi.ControllerServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.ControllerServiceCapability{
			Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}},
		})
	}
	return answer, nil
}

func (c *controllerServer) CreateVolume(
	_ context.Context, request *csi.CreateVolumeRequest,
) (*csi.CreateVolumeResponse, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	wanted, from, err := c.plan(request)
	if err != nil {
		return nil, err
	}
	made, err := c.findVolume(request.Name)
	if status.Code(err) == codes.NotFound {
		made = wanted
		err = build(c.volumeFolder(made), func(part string) error { return fill(part, made, from) })
	}
	if err != nil {
		return nil, err
	}
	if made.Size < wanted.Size || made.Sort != wanted.Sort {
		return nil, status.Errorf(codes.AlreadyExists, "%s is there with another size or sort", made.ID)
	}
	answer := &csi.Volume{VolumeId: made.ID, CapacityBytes: made.Size, ContentSource: request.VolumeContentSource}
	if made.Node != anyNode {
		answer.AccessibleTopology = []*csi.Topology{{Segments: map[string]string{topologyKey: made.Node}}}
	}
	return &csi.CreateVolumeResponse{Volume: answer}, nil
}

// plan says what the volume will be, and which content it begins with ("" for none).
func (c *controllerServer) plan(request *csi.CreateVolumeRequest) (volume, string, error) {
	v := volume{ID: request.Name, Sort: request.Parameters["filesystem"], Size: request.CapacityRange.GetRequiredBytes()}
	if err := checkID(v.ID); err != nil {
		return v, "", err
	}
	if v.Sort == "" {
		v.Sort = sortFolder
	}
	for _, capability := range request.VolumeCapabilities {
		if capability.GetBlock() != nil {
			v.Sort = sortBlock
		}
	}
	if v.Size == 0 {
		v.Size = defaultSize
	}
	from, sort, size, node := "", v.Sort, int64(0), ""
	if one := request.VolumeContentSource.GetSnapshot(); one != nil {
		found, err := c.findSnapshot(one.SnapshotId)
		if err != nil {
			return v, "", err
		}
		from, sort, size = content(c.snapshotFolder(found.ID), found.Sort), found.Sort, found.Size
	} else if one := request.VolumeContentSource.GetVolume(); one != nil {
		found, err := c.findVolume(one.VolumeId)
		if err != nil {
			return v, "", err
		}
		from, sort, size, node = content(c.volumeFolder(found), found.Sort), found.Sort, found.Size, found.Node
	}
	if sort != v.Sort {
		return v, "", status.Errorf(codes.InvalidArgument, "the source is a %s, not a %s", sort, v.Sort)
	}
	if size > v.Size {
		return v, "", status.Errorf(codes.OutOfRange, "%d bytes are less than the %d of the source", v.Size, size)
	}
	chosen, err := chooseNode(request, node)
	v.Node = chosen
	return v, from, err
}

// chooseNode takes the first node that is preferred; a clone stays where its source is.
func chooseNode(request *csi.CreateVolumeRequest, node string) (string, error) {
	if request.Parameters["scope"] == "cluster" {
		return anyNode, nil
	}
	wanted := request.AccessibilityRequirements.GetPreferred()
	wanted = append(wanted, request.AccessibilityRequirements.GetRequisite()...)
	for _, one := range wanted {
		if name := one.Segments[topologyKey]; name != "" && (node == "" || node == name || node == anyNode) {
			return name, nil
		}
	}
	return "", status.Errorf(codes.ResourceExhausted, "no node that is allowed can hold it; its source is on %q", node)
}

func fill(part string, v volume, from string) error {
	target := content(part, v.Sort)
	if err := save(filepath.Join(part, "volume.json"), v); err != nil {
		return err
	}
	if from != "" {
		if err := copyContent(from, target); err != nil {
			return err
		}
	} else if v.Sort == sortFolder {
		// The umask must not take the right of everybody to write: the folder of a new volume is free for all.
		return errors.Join(os.Mkdir(target, 0o777), os.Chmod(target, 0o777))
	}
	if v.Sort == sortFolder {
		return nil
	}
	return grow(target, v.Size)
}

func grow(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Truncate(size), file.Close())
}

func (c *controllerServer) DeleteVolume(
	_ context.Context, request *csi.DeleteVolumeRequest,
) (*csi.DeleteVolumeResponse, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	found, err := c.findVolume(request.VolumeId)
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	folder := c.volumeFolder(found)
	if device, err := attached(folder); err == nil {
		// The kubelet has yet to take it off; who provides volumes asks again.
		return nil, status.Errorf(codes.FailedPrecondition, "%s is still on %s of node %s", found.ID, device, found.Node)
	}
	return &csi.DeleteVolumeResponse{}, os.RemoveAll(folder)
}

func (c *controllerServer) ControllerExpandVolume(
	_ context.Context, request *csi.ControllerExpandVolumeRequest,
) (*csi.ControllerExpandVolumeResponse, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	found, err := c.findVolume(request.VolumeId)
	if err != nil {
		return nil, err
	}
	if wanted := request.CapacityRange.GetRequiredBytes(); wanted > found.Size {
		found.Size = wanted
		folder := c.volumeFolder(found)
		if _, inUse := attached(folder); found.Sort == sortExt4 && inUse == nil {
			// To let a mounted file system grow takes CAP_SYS_RESOURCE, which not every container has.
			return nil, status.Errorf(codes.FailedPrecondition, "%s grows when no pod uses it", found.ID)
		}
		if found.Sort != sortFolder {
			err = grow(content(folder, found.Sort), wanted)
		}
		if err = errors.Join(err, save(filepath.Join(folder, "volume.json"), found)); err != nil {
			return nil, err
		}
	}
	return &csi.ControllerExpandVolumeResponse{
		CapacityBytes: found.Size, NodeExpansionRequired: found.Sort != sortFolder,
	}, nil
}

func (c *controllerServer) ValidateVolumeCapabilities(
	_ context.Context, request *csi.ValidateVolumeCapabilitiesRequest,
) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if _, err := c.findVolume(request.VolumeId); err != nil {
		return nil, err
	}
	confirmed := &csi.ValidateVolumeCapabilitiesResponse_Confirmed{VolumeCapabilities: request.VolumeCapabilities}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: confirmed}, nil
}

// CreateSnapshot obeys its class, for tests: `failures` (so often unavailable before it works), `ready-seconds`
// (not ready before), `extra-bytes` (its size is larger than the volume's by so much).
func (c *controllerServer) CreateSnapshot(
	_ context.Context, request *csi.CreateSnapshotRequest,
) (*csi.CreateSnapshotResponse, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if wanted, _ := strconv.Atoi(request.Parameters["failures"]); c.failed[request.Name] < wanted {
		c.failed[request.Name]++
		return nil, status.Errorf(codes.Unavailable, "failure %d of %d, as asked", c.failed[request.Name], wanted)
	}
	made, err := c.snapshot(request.Name, request.SourceVolumeId, "", request.Parameters)
	if err != nil {
		return nil, err
	}
	return &csi.CreateSnapshotResponse{Snapshot: described(made)}, nil
}

// snapshot copies a volume as it is now; again with the same name, it says what is there.
func (c *controllerServer) snapshot(name, source, group string, wishes map[string]string) (snapshot, error) {
	made, err := c.findSnapshot(name)
	if err == nil && made.Source != source {
		return made, status.Errorf(codes.AlreadyExists, "%s is a volume snapshot of %s", name, made.Source)
	}
	if status.Code(err) != codes.NotFound {
		return made, err
	}
	found, err := c.findVolume(source)
	if err != nil {
		return made, err
	}
	extra, _ := strconv.ParseInt(wishes["extra-bytes"], 10, 64)
	delay, _ := strconv.Atoi(wishes["ready-seconds"])
	made = snapshot{ID: name, Group: group, Source: source, Sort: found.Sort, Size: found.Size + extra}
	made.Created, made.Delay = time.Now(), time.Duration(delay)*time.Second
	return made, build(c.snapshotFolder(name), func(part string) error {
		folder := c.volumeFolder(found)
		err := stopped(found, folder, func() error {
			return copyContent(content(folder, found.Sort), content(part, found.Sort))
		})
		return errors.Join(err, save(filepath.Join(part, "snapshot.json"), made))
	})
}

func described(s snapshot) *csi.Snapshot {
	return &csi.Snapshot{
		SnapshotId: s.ID, SourceVolumeId: s.Source, SizeBytes: s.Size, ReadyToUse: s.ready(),
		CreationTime: timestamppb.New(s.Created), GroupSnapshotId: s.Group,
	}
}

func (c *controllerServer) DeleteSnapshot(
	_ context.Context, request *csi.DeleteSnapshotRequest,
) (*csi.DeleteSnapshotResponse, error) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if err := checkID(request.SnapshotId); err != nil {
		return nil, err
	}
	return &csi.DeleteSnapshotResponse{}, os.RemoveAll(c.snapshotFolder(request.SnapshotId))
}
