package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Sorts of content: what a volume and the volume snapshots of it are made of.
const (
	sortFolder = "folder" // as large as the disk below it
	sortExt4   = "ext4"   // a file system in a file: its size is kept
	sortBlock  = "block"  // a file behind a loop device
)

const anyNode = "_any"

type volume struct {
	ID   string `json:"id"`
	Node string `json:"node"`
	Sort string `json:"sort"`
	Size int64  `json:"size"`
}

type snapshot struct {
	ID      string        `json:"id"`
	Group   string        `json:"group,omitempty"`
	Source  string        `json:"source"`
	Sort    string        `json:"sort"`
	Size    int64         `json:"size"`
	Created time.Time     `json:"created"`
	Delay   time.Duration `json:"delay"`
}

// ready is false for as long as the class of the volume snapshot wants it.
func (s snapshot) ready() bool { return !time.Now().Before(s.Created.Add(s.Delay)) }

type store struct {
	root string
}

func (s store) volumeFolder(v volume) string    { return filepath.Join(s.root, "volumes", v.Node, v.ID) }
func (s store) snapshotFolder(id string) string { return filepath.Join(s.root, "snapshots", id) }
func (s store) groupFile(id string) string      { return filepath.Join(s.root, "groups", id+".json") }

func content(folder, sort string) string {
	if sort == sortFolder {
		return filepath.Join(folder, "data")
	}
	return filepath.Join(folder, "image")
}

func load(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

func save(path string, what any) error {
	text, err := json.Marshal(what)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	return os.WriteFile(path, text, 0o640)
}

func checkID(id string) error {
	if id == "" || id != filepath.Base(id) || strings.HasPrefix(id, ".") {
		return status.Errorf(codes.InvalidArgument, "bad id %q", id)
	}
	return nil
}

// findVolume looks on all nodes: an id does not name its node.
func (s store) findVolume(id string) (volume, error) {
	var found volume
	if err := checkID(id); err != nil {
		return found, err
	}
	paths, err := filepath.Glob(filepath.Join(s.root, "volumes", "*", id, "volume.json"))
	if err != nil || len(paths) == 0 {
		return found, errors.Join(err, status.Errorf(codes.NotFound, "no volume %s", id))
	}
	return found, load(paths[0], &found)
}

func (s store) findSnapshot(id string) (snapshot, error) {
	var found snapshot
	if err := checkID(id); err != nil {
		return found, err
	}
	err := load(filepath.Join(s.snapshotFolder(id), "snapshot.json"), &found)
	if errors.Is(err, fs.ErrNotExist) {
		err = status.Errorf(codes.NotFound, "no volume snapshot %s", id)
	}
	return found, err
}

// build makes a folder beside its place and renames it: it is whole or missing.
func build(folder string, fill func(part string) error) error {
	part := folder + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	if err := os.MkdirAll(part, 0o750); err != nil {
		return err
	}
	if err := fill(part); err != nil {
		return errors.Join(err, os.RemoveAll(part))
	}
	return os.Rename(part, folder)
}

func copyContent(source, target string) error {
	return run("cp", "-a", "--reflink=auto", "--sparse=always", source, target)
}

func run(argv ...string) error {
	_, err := output(argv...)
	return err
}

func output(argv ...string) (string, error) {
	done, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	text := strings.TrimSpace(string(done))
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, text)
	}
	return text, nil
}
