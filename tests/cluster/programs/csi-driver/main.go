// csi-driver serves volumes that are folders or files of this machine, each on the node that it was made for.
//
// One process with -controller does what concerns the cluster: volumes, clones, volume snapshots, groups of
// them. One with -node on each node does what concerns the node: loop devices and mounts. Both read ROOT:
//
//	volumes/NODE/ID/   volume.json and `data` (folder) or `image` (file with a file system, or a raw device)
//	snapshots/ID/      snapshot.json and the same
//	groups/ID.json     which volume snapshots belong together
//
// A volume can be used on its node only (topology), but for a class with `scope: cluster`; a volume snapshot can be
// restored on any node, as with the drivers of clouds.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
	pluginregistration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	driverName  = "csi.pvback.test"
	topologyKey = "topology.csi.pvback.test/node"
)

type identity struct {
	csi.UnimplementedIdentityServer
}

func (identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: driverName, VendorVersion: "1"}, nil
}

func (identity) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(true)}, nil
}

func (identity) GetPluginCapabilities(
	context.Context, *csi.GetPluginCapabilitiesRequest,
) (*csi.GetPluginCapabilitiesResponse, error) {
	answer := &csi.GetPluginCapabilitiesResponse{}
	for _, kind := range []csi.PluginCapability_Service_Type{
		csi.PluginCapability_Service_CONTROLLER_SERVICE,
		csi.PluginCapability_Service_VOLUME_ACCESSIBILITY_CONSTRAINTS,
		csi.PluginCapability_Service_GROUP_CONTROLLER_SERVICE,
	} {
		answer.Capabilities = append(answer.Capabilities, &csi.PluginCapability{
			Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: kind}},
		})
	}
	answer.Capabilities = append(answer.Capabilities, &csi.PluginCapability{
		Type: &csi.PluginCapability_VolumeExpansion_{
			VolumeExpansion: &csi.PluginCapability_VolumeExpansion{Type: csi.PluginCapability_VolumeExpansion_OFFLINE},
		},
	})
	return answer, nil
}

// registration tells the kubelet of the driver, as node-driver-registrar does.
type registration struct {
	pluginregistration.UnimplementedRegistrationServer
	endpoint string
}

func (r registration) GetInfo(
	context.Context, *pluginregistration.InfoRequest,
) (*pluginregistration.PluginInfo, error) {
	return &pluginregistration.PluginInfo{
		Type:              pluginregistration.CSIPlugin,
		Name:              driverName,
		Endpoint:          r.endpoint,
		SupportedVersions: []string{"1.0.0"},
	}, nil
}

func (registration) NotifyRegistrationStatus(
	_ context.Context, answer *pluginregistration.RegistrationStatus,
) (*pluginregistration.RegistrationStatusResponse, error) {
	if !answer.PluginRegistered {
		log.Fatalf("the kubelet refused the driver: %s", answer.Error)
	}
	return &pluginregistration.RegistrationStatusResponse{}, nil
}

func listen(path string) net.Listener {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		log.Fatal(err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

// logged writes what was asked and what went wrong; probes are left out.
func logged(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	answer, err := handler(ctx, request)
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.Internal, err.Error())
		}
		log.Printf("%s %v: %v", info.FullMethod, request, err)
	} else if filepath.Base(info.FullMethod) != "Probe" {
		log.Printf("%s %v", info.FullMethod, request)
	}
	return answer, err
}

func main() {
	root := flag.String("root", "", "folder of volumes and volume snapshots")
	endpoint := flag.String("endpoint", "", "path of the socket to serve on")
	controller := flag.Bool("controller", false, "serve the controller's part")
	node := flag.String("node", "", "serve the part of the node of this name")
	register := flag.String("registration", "", "path of the socket for the kubelet")
	flag.Parse()
	if *root == "" || *endpoint == "" || *controller == (*node != "") {
		log.Fatal("usage: csi-driver -root DIR -endpoint SOCKET {-controller | -node NAME -registration SOCKET}")
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(logged))
	csi.RegisterIdentityServer(server, identity{})
	files := store{root: *root}
	if *controller {
		control := &controllerServer{store: files, failed: map[string]int{}}
		csi.RegisterControllerServer(server, control)
		csi.RegisterGroupControllerServer(server, &groupServer{controller: control})
	} else {
		csi.RegisterNodeServer(server, &nodeServer{store: files, node: *node})
	}
	listener := listen(*endpoint)
	if *register != "" {
		kubelet := grpc.NewServer()
		pluginregistration.RegisterRegistrationServer(kubelet, registration{endpoint: *endpoint})
		socket := listen(*register)
		go func() { log.Fatal(kubelet.Serve(socket)) }()
	}
	log.Fatal(server.Serve(listener))
}
