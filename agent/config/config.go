// SPDX-License-Identifier: Apache-2.0

// Package config reads the agent's configuration: what an agent must know before
// it has spoken to a controller. Everything else comes with its assignment.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"go.yaml.in/yaml/v3"

	"github.com/understudy-net/understudy/internal/pki"
)

// Features that a test can switch off.
var Features = []string{"align", "guard", "gate", "adopt", "carrier"}

// DefaultSpoolDir is for files that are too large for /tmp (Filesystem Hierarchy
// Standard, section 5.15).
const DefaultSpoolDir = "/var/tmp"

// Config of an agent, as its YAML file has it.
type Config struct {
	// Server is this server's name in the controller's configuration.
	Server string `yaml:"server"`
	// Controller is where the controller takes agents' sessions, "host:port"; of
	// several, with commas between them, the one in charge is found.
	Controller string `yaml:"controller"`
	// Interface is the data interface, towards the switch.
	Interface string `yaml:"interface"`
	// PinDir is a folder in a bpf file system where the eBPF programs outlive the
	// agent's process.
	PinDir string `yaml:"pin_dir"`
	// ReplicationListen is where the other server's agent reaches this one,
	// "address:port"; also announced to it.
	ReplicationListen string `yaml:"replication_listen"`
	// SpoolDir is where requests in hand are kept that are too long for memory, by a
	// backup, in files without a name; DefaultSpoolDir if empty. Its file system must
	// have O_TMPFILE, and should not be memory.
	SpoolDir string `yaml:"spool_dir"`
	// TLS is how the session with the controller and the replication stream between
	// agents are secured: the certificate must be that of this server
	// (docs/security.md).
	TLS *pki.Files `yaml:"tls"`
	// Insecure is the other choice: nobody says who he is.
	Insecure bool `yaml:"insecure"`
	// Disable names features that are left off, to see what they are for.
	Disable []string `yaml:"disable"`
}

// Load reads and checks a file. The error names the file and every fault in it.
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; write one, see `understudy-agent --help`", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// Parse checks a configuration. Unknown keys are faults.
func Parse(b []byte) (*Config, error) {
	c := &Config{}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, err
	}
	var faults []error
	need := func(v, key, what string) {
		if v == "" {
			faults = append(faults, fmt.Errorf("%s is missing: %s", key, what))
		}
	}
	need(c.Server, "server", "this server's name, as the controller knows it")
	need(c.Controller, "controller", "where the controller listens for agents, host:port")
	need(c.Interface, "interface", "the interface towards the switch")
	need(c.PinDir, "pin_dir", "a folder in a bpf file system, such as /sys/fs/bpf/understudy")
	need(c.ReplicationListen, "replication_listen", "this server's own address and a port, for the other agent")
	if c.ReplicationListen != "" {
		if a, err := netip.ParseAddrPort(c.ReplicationListen); err != nil {
			faults = append(faults, fmt.Errorf("replication_listen: %q is not address:port", c.ReplicationListen))
		} else if a.Addr().IsUnspecified() {
			faults = append(faults, fmt.Errorf("replication_listen: %q must be an address that the other server can reach", c.ReplicationListen))
		}
	}
	switch {
	case c.TLS != nil && c.Insecure:
		faults = append(faults, errors.New("tls stands beside insecure, which does without; remove one of them"))
	case c.TLS != nil:
		need(c.TLS.Cert, "tls.cert", "this server's certificate, made by understudy certs issue server")
		need(c.TLS.Key, "tls.key", "the key to its certificate")
		need(c.TLS.CA, "tls.ca", "the certificates of the authorities that it trusts")
	case !c.Insecure:
		faults = append(faults, errors.New("tls is missing: {cert: FILE, key: FILE, ca: FILE} (see understudy certs); "+
			"or write \"insecure: true\", if nobody else can reach the controller or pass for it"))
	}
	if c.SpoolDir == "" {
		c.SpoolDir = DefaultSpoolDir
	} else if !filepath.IsAbs(c.SpoolDir) {
		faults = append(faults, fmt.Errorf("spool_dir: %q is not an absolute path", c.SpoolDir))
	}
	for _, f := range c.Disable {
		if !slices.Contains(Features, f) {
			faults = append(faults, fmt.Errorf("disable: %q is none of %v", f, Features))
		}
	}
	return c, errors.Join(faults...)
}
