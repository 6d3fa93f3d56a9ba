package main

import (
	"context"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type group struct {
	ID      string    `json:"id"`
	Sources []string  `json:"sources"`
	Members []string  `json:"members"`
	Created time.Time `json:"created"`
}

type groupServer struct {
	csi.UnimplementedGroupControllerServer
	controller *controllerServer
}

func (g *groupServer) GroupControllerGetCapabilities(
	context.Context, *csi.GroupControllerGetCapabilitiesRequest,
) (*csi.GroupControllerGetCapabilitiesResponse, error) {
	kind := csi.GroupControllerServiceCapability_RPC_CREATE_DELETE_GET_VOLUME_GROUP_SNAPSHOT
	return &csi.GroupControllerGetCapabilitiesResponse{Capabilities: []*csi.GroupControllerServiceCapability{{
		Type: &csi.GroupControllerServiceCapability_Rpc{Rpc: &csi.GroupControllerServiceCapability_RPC{Type: kind}},
	}}}, nil
}

func (g *groupServer) CreateVolumeGroupSnapshot(
	_ context.Context, request *csi.CreateVolumeGroupSnapshotRequest,
) (*csi.CreateVolumeGroupSnapshotResponse, error) {
	c := g.controller
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if err := checkID(request.Name); err != nil {
		return nil, err
	}
	sources := slices.Sorted(slices.Values(request.SourceVolumeIds))
	made := group{ID: request.Name, Sources: sources, Created: time.Now()}
	err := load(c.groupFile(made.ID), &made)
	if errors.Is(err, os.ErrNotExist) {
		err = g.standing(sources, func() error {
			for _, source := range sources {
				name := made.ID + "-" + source
				if _, err := c.snapshot(name, source, made.ID, request.Parameters); err != nil {
					return err
				}
				made.Members = append(made.Members, name)
			}
			return nil
		})
		if err == nil {
			err = save(c.groupFile(made.ID), made)
		}
	}
	if err != nil {
		return nil, err
	}
	if !slices.Equal(sources, made.Sources) {
		return nil, status.Errorf(codes.AlreadyExists, "%s is a group of other volumes", made.ID)
	}
	answer, err := g.described(made)
	return &csi.CreateVolumeGroupSnapshotResponse{GroupSnapshot: answer}, err
}

// standing runs then while all these volumes stand still, as far as each of them can: it is one moment of all.
func (g *groupServer) standing(volumes []string, then func() error) error {
	if len(volumes) == 0 {
		return then()
	}
	found, err := g.controller.findVolume(volumes[0])
	if err != nil {
		return err
	}
	return stopped(found, g.controller.volumeFolder(found), func() error { return g.standing(volumes[1:], then) })
}

func (g *groupServer) described(made group) (*csi.VolumeGroupSnapshot, error) {
	answer := &csi.VolumeGroupSnapshot{
		GroupSnapshotId: made.ID, CreationTime: timestamppb.New(made.Created), ReadyToUse: true,
	}
	for _, name := range made.Members {
		member, err := g.controller.findSnapshot(name)
		if err != nil {
			return nil, err
		}
		answer.Snapshots = append(answer.Snapshots, described(member))
		answer.ReadyToUse = answer.ReadyToUse && member.ready()
	}
	return answer, nil
}

func (g *groupServer) find(id string) (group, error) {
	var found group
	if err := checkID(id); err != nil {
		return found, err
	}
	err := load(g.controller.groupFile(id), &found)
	if errors.Is(err, os.ErrNotExist) {
		err = status.Errorf(codes.NotFound, "no group %s", id)
	}
	return found, err
}

func (g *groupServer) GetVolumeGroupSnapshot(
	_ context.Context, request *csi.GetVolumeGroupSnapshotRequest,
) (*csi.GetVolumeGroupSnapshotResponse, error) {
	g.controller.mutex.Lock()
	defer g.controller.mutex.Unlock()
	found, err := g.find(request.GroupSnapshotId)
	if err != nil {
		return nil, err
	}
	answer, err := g.described(found)
	return &csi.GetVolumeGroupSnapshotResponse{GroupSnapshot: answer}, err
}

func (g *groupServer) DeleteVolumeGroupSnapshot(
	_ context.Context, request *csi.DeleteVolumeGroupSnapshotRequest,
) (*csi.DeleteVolumeGroupSnapshotResponse, error) {
	c := g.controller
	c.mutex.Lock()
	defer c.mutex.Unlock()
	found, err := g.find(request.GroupSnapshotId)
	if status.Code(err) == codes.NotFound {
		return &csi.DeleteVolumeGroupSnapshotResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	for _, name := range found.Members {
		err = errors.Join(err, os.RemoveAll(c.snapshotFolder(name)))
	}
	return &csi.DeleteVolumeGroupSnapshotResponse{}, errors.Join(err, os.Remove(c.groupFile(found.ID)))
}
