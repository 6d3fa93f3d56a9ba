package main

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Of linux/fs.h.
const (
	ioctlFreeze = 0xC0045877
	ioctlThaw   = 0xC0045878
)

var errFrozen = errors.New("frozen already")

// stopped runs copy while a volume with a file system of its own stands still: what is copied is one moment of
// it. Of a raw device all that was written so far is copied; a folder is copied as it changes.
func stopped(v volume, folder string, copy func() error) error {
	device, err := attached(folder)
	if errors.Is(err, os.ErrNotExist) {
		return copy()
	}
	if err != nil {
		return err
	}
	if v.Sort == sortBlock {
		return errors.Join(flush(device), copy())
	}
	mount, err := freeze(device)
	if errors.Is(err, errFrozen) {
		// Somebody else holds it still, and lets it go.
		return copy()
	}
	if err != nil {
		return err
	}
	defer mount.Close()
	return errors.Join(copy(), unix.IoctlSetInt(int(mount.Fd()), ioctlThaw, 0))
}

// freeze stops the file system on device and returns its folder. The mount of the node is in another namespace,
// so the device is mounted here for a moment: it is the same file system.
func freeze(device string) (*os.File, error) {
	folder, err := os.MkdirTemp("", "csi-driver-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(folder)
	if err := unix.Mount(device, folder, "ext4", 0, ""); err != nil {
		return nil, err
	}
	opened, err := os.Open(folder)
	if err == nil {
		err = unix.IoctlSetInt(int(opened.Fd()), ioctlFreeze, 0)
		if errors.Is(err, unix.EBUSY) {
			err = errFrozen
		}
		if err != nil {
			opened.Close()
		}
	}
	return opened, errors.Join(err, unix.Unmount(folder, unix.MNT_DETACH))
}

func flush(device string) error {
	opened, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}
