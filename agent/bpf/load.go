// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// layout is the version of what the maps hold. Maps of another version are not
// reused. Raise it with every change of a key or value in connections.bpf.c.
const layout = "v1"

const (
	mapPrefix  = "map_"
	linkPrefix = "link_"
)

var hooks = []struct {
	name   string
	attach ebpf.AttachType
}{
	// The guard first: it must not be the last to come.
	{connectionsProgEgress, ebpf.AttachTCXEgress},
	{connectionsProgIngress, ebpf.AttachTCXIngress},
}

// Load attaches the programs to the interface and pins them, or takes over
// what is pinned already: programs are replaced one after the other, each at
// once, so that no packet meets none; maps are kept with all that they hold. A
// map whose size was changed is replaced by a copy. Maps of another version of
// this package are replaced by empty ones, so services have to be set again.
//
// A feature that the kernel lacks is reported as a *FeatureError.
func Load(cfg Config) (_ *Programs, err error) {
	if err := Probe(); err != nil {
		return nil, err
	}
	ifi, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %q: %w", cfg.Interface, err)
	}
	if len(ifi.HardwareAddr) != 6 {
		return nil, fmt.Errorf("interface %s is not an Ethernet interface", cfg.Interface)
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 65536
	}
	if cfg.MaxConnections < 0 {
		return nil, fmt.Errorf("%d connections make no sense", cfg.MaxConnections)
	}
	unlock, err := openPinDir(cfg.PinDir)
	if err != nil {
		return nil, err
	}
	defer unlock()

	spec, err := loadConnections()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{connectionsMapConns, connectionsMapClosing, connectionsMapSyns} {
		spec.Maps[name].MaxEntries = uint32(cfg.MaxConnections)
	}
	p := &Programs{mss: uint16(min(max(ifi.MTU-40, 0), 65495))}

	maps, err := openMaps(cfg.PinDir, spec)
	defer func() {
		for _, m := range maps {
			m.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	if err := spec.LoadAndAssign(&p.objs, &ebpf.CollectionOptions{MapReplacements: maps}); err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			return nil, fmt.Errorf("load programs: %+v", ve)
		}
		return nil, fmt.Errorf("load programs: %w", err)
	}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	progs := map[string]*ebpf.Program{
		connectionsProgEgress:  p.objs.Egress,
		connectionsProgIngress: p.objs.Ingress,
	}
	for _, h := range hooks {
		if err := attach(filepath.Join(cfg.PinDir, linkPrefix+h.name), ifi.Index, progs[h.name], h.attach); err != nil {
			return nil, fmt.Errorf("attach %s to %s: %w", h.name, cfg.Interface, err)
		}
	}
	return p, nil
}

// Detach removes the programs and all they know, whoever loaded them. It is no
// error if there is nothing to remove.
func Detach(pinDir string) error {
	entries, err := os.ReadDir(pinDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	unlock, err := openPinDir(pinDir)
	if err != nil {
		return err
	}
	defer unlock()
	var errs []error
	for _, e := range entries {
		path := filepath.Join(pinDir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), linkPrefix):
			errs = append(errs, removeLink(path))
		case strings.HasPrefix(e.Name(), mapPrefix):
			errs = append(errs, os.Remove(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach: %w", err)
	}
	if err := os.Remove(pinDir); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
		return fmt.Errorf("detach: %w", err)
	}
	return nil
}

// openPinDir makes the directory, and keeps others from loading or detaching
// in it until unlock is called.
func openPinDir(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pin directory: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return nil, fmt.Errorf("pin directory %s: %w", dir, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return nil, fmt.Errorf("pin directory %s is not in a BPF file system (mount -t bpf bpf %s)", dir, filepath.Dir(dir))
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("pin directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

// openMaps opens the pinned maps and makes those that are missing or do not
// fit. The caller closes them, also after an error.
func openMaps(dir string, spec *ebpf.CollectionSpec) (map[string]*ebpf.Map, error) {
	maps := make(map[string]*ebpf.Map)
	keep := make(map[string]bool)
	for name, ms := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue // constants belong to one version of the programs
		}
		file := mapPrefix + name + "_" + layout
		keep[file] = true
		m, err := openMap(filepath.Join(dir, file), ms)
		if err != nil {
			return maps, fmt.Errorf("map %s: %w", name, err)
		}
		maps[name] = m
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return maps, err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), mapPrefix) && !keep[e.Name()] {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return maps, err
			}
		}
	}
	return maps, nil
}

func openMap(path string, spec *ebpf.MapSpec) (*ebpf.Map, error) {
	old, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, fs.ErrNotExist) {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return nil, err
		}
		if err := m.Pin(path); err != nil {
			m.Close()
			return nil, err
		}
		return m, nil
	}
	if err != nil {
		return nil, err
	}
	if spec.Compatible(old) == nil {
		return old, nil
	}
	defer old.Close()
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, err
	}
	if old.Type() == m.Type() && old.KeySize() == m.KeySize() && old.ValueSize() == m.ValueSize() {
		if err := copyMap(m, old); err != nil {
			m.Close()
			return nil, fmt.Errorf("copy: %w", err)
		}
	}
	if err := os.Remove(path); err != nil {
		m.Close()
		return nil, err
	}
	if err := m.Pin(path); err != nil {
		m.Close()
		return nil, err
	}
	return m, nil
}

// copyMap copies what it can: the old map is in use and changes under our
// hands, and the new one may be smaller.
func copyMap(to, from *ebpf.Map) error {
	var key, value []byte
	it := from.Iterate()
	for it.Next(&key, &value) {
		if err := to.Put(key, value); err != nil {
			return err
		}
	}
	if err := it.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil
}

// attach puts the program on the interface, in place of the one that is
// pinned, if there is one.
func attach(path string, ifindex int, prog *ebpf.Program, at ebpf.AttachType) error {
	old, err := link.LoadPinnedLink(path, nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		defer old.Close()
		here, err := attachedTo(old, ifindex, at)
		if err != nil {
			return err
		}
		if here {
			return old.Update(prog)
		}
		// The interface is gone or is another one.
		if err := removeLink(path); err != nil {
			return err
		}
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: prog, Attach: at})
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(path)
}

// attachedTo tells whether a link is on an interface. The link itself knows only
// its interface's index, which other network namespaces use as well.
func attachedTo(l link.Link, ifindex int, at ebpf.AttachType) (bool, error) {
	info, err := l.Info()
	if err != nil {
		return false, err
	}
	there, err := link.QueryPrograms(link.QueryOptions{Target: ifindex, Attach: at})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(there.Programs, func(p link.AttachedProgram) bool {
		id, ok := p.LinkID()
		return ok && id == info.ID
	}), nil
}

// removeLink detaches a program at once. To remove the pin would be enough, but
// the kernel takes its time then.
func removeLink(path string) error {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return err
	}
	defer l.Close()
	if err := l.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) {
		return err
	}
	return os.Remove(path)
}
