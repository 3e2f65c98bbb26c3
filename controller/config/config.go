// SPDX-License-Identifier: Apache-2.0

// Package config turns the controller's file into a validated configuration.
//
// It is strict: a key that it does not know is a fault, so is a value that
// could mean two things, and all faults of a file are reported at once, each as
// "FILE:line: what; what to do".
//
// # How to add a section
//
//  1. Its type, and a field of Config, in a file of its own, say bgp.go.
//  2. Beside it a method func (r *reader) bgp(m mapping, c *Config), which takes its
//     mapping by r.mapping(m.keys["bgp"], "bgp", "its", "keys") and each value by a
//     method of mapping (number, duration, text, choice, ...). These gather faults
//     with their lines; what they cannot check is told by r.fault(x.at("key"), what,
//     do). Where a key is new in kind, m.describe says so to the schema.
//  3. A line in the list of sections, at a place after those that it counts on.
//     With an example there, the section is required.
//  4. Every key in example.yaml, with a comment: comments become descriptions in the
//     schema.
//  5. A file in testdata/wrong for each fault that it can find.
//
// Then run go test ./controller/config -update, and read what it wrote: the
// schema, and the faults at the end of the new wrong files.
package config

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"
)

// Config is a whole configuration that has passed every check.
type Config struct {
	Switch Switch `apply:"restart"`
	// Twins are more switches that lead to the same servers by the same ports.
	Twins  []Switch `apply:"restart"`
	Listen Listen   `apply:"restart"`
	// TLS is nil where nobody has to say who he is.
	TLS *TLS `apply:"restart"`
	// AuditLog is the file that changes through the Admin API are kept in.
	AuditLog  string    `apply:"restart"`
	StateDir  string    `apply:"restart"`
	Heartbeat Heartbeat `apply:"restart"`
	Gateways  []Gateway
	// VIPMAC is what the switch answers to ARP requests and neighbour
	// solicitations for a VIP.
	VIPMAC   MAC `yaml:"vip_mac"`
	Routes   []Route
	Pairs    []Pair
	Services []Service
	// BGP is nil where no routes are announced.
	BGP *BGP `apply:"restart"`
}

// Switch is the P4Runtime target.
type Switch struct {
	Name     string
	Address  string
	DeviceID uint64
	// Standby: this controller takes over only while no other is in charge.
	Standby bool
	// GNMI is where it tells of its ports, host:port; empty for nowhere.
	GNMI string `yaml:"gnmi"`
}

// Switches returns all switches, the first one first.
func (c *Config) Switches() []Switch { return append([]Switch{c.Switch}, c.Twins...) }

// Listen says where the controller is reached.
type Listen struct {
	// Agents is host:port.
	Agents string
	// Admin is host:port, or unix:PATH.
	Admin string
	// Metrics is host:port, or empty for nowhere: for Prometheus, without TLS.
	Metrics string
	// Insecure has whoever reaches a TCP listener be taken for an operator, or for the
	// server that he says he is.
	Insecure bool
}

// TLS names the files that the controller shows who it is by, and knows others by. They
// are read again when they change.
type TLS struct {
	Cert, Key, CA string
}

// Heartbeat says how servers show that they live.
type Heartbeat struct {
	Interval time.Duration
	// Missed of them in a row are silence.
	Missed int
	// Port is the UDP port that the switch sends to the controller.
	Port uint16
}

// Gateway is an address of the switch.
type Gateway struct {
	Address netip.Addr
	MAC     MAC
}

func (g Gateway) String() string { return g.Address.String() }

// Route tells the switch where to send what is for no service.
type Route struct {
	Prefix     netip.Prefix
	Port       uint16
	NextHopMAC MAC
	SourceMAC  MAC
}

// Pair is a set of servers that back each other.
type Pair struct {
	// ID counts the pairs from 1, in the order of the file. It is also the number
	// of the pair's multicast group.
	ID   uint16 `diff:"-"`
	Name string
	// Watchdog has the switch itself release the backup when the active server is
	// silent.
	Watchdog bool
	// Servers are in the order of their replica numbers, which may have gaps.
	Servers []Server
}

// Server returns the server of a replica number, and false if there is none.
func (p Pair) Server(replica uint8) (Server, bool) {
	for _, s := range p.Servers {
		if s.Replica == replica {
			return s, true
		}
	}
	return Server{}, false
}

// HasServer says whether a pair has a server of that name.
func (c *Config) HasServer(name string) bool {
	for _, p := range c.Pairs {
		for _, s := range p.Servers {
			if s.Name == name {
				return true
			}
		}
	}
	return false
}

// Server is one server of a pair.
type Server struct {
	// Replica counts the servers of a pair from 1. A server that comes while others
	// are there gets a number that is free; those keep theirs.
	Replica uint8 `diff:"-"`
	// RID is the server's replication id, unique among all.
	RID  uint16 `diff:"-"`
	Name string
	// Port is the switch's port that leads to it.
	Port uint16 `apply:"restart"`
	MAC  MAC    `apply:"restart"`
	// Gateway takes its heartbeats; frames to the server have its MAC as source.
	Gateway Gateway `apply:"restart"`
}

// Service is what clients connect to.
type Service struct {
	Name string
	Pair string
	VIP  netip.Addr
	// Protocol is an IP protocol number.
	Protocol Protocol
	Port     uint16
	// Upstream is the local application, host:port on each server.
	Upstream string
}

// Protocol is an IP protocol number.
type Protocol uint8

// The protocols that a service may have.
const (
	TCP Protocol = 6
	UDP Protocol = 17
)

// String is the name that the file has for a protocol.
func (p Protocol) String() string {
	switch p {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	}
	return strconv.Itoa(int(p))
}

// Defaults, and bounds that the data plane sets.
const (
	DefaultStateDir          = "/var/lib/understudy"
	DefaultHeartbeatInterval = 10 * time.Millisecond
	DefaultHeartbeatMissed   = 3
	DefaultHeartbeatPort     = 9401

	// ServersPerPair is the room for replication ids that each pair has, less the
	// one that is never used: rid = (pair-1)*4 + replica.
	ServersPerPair = 3
	ridsPerPair    = ServersPerPair + 1
	// MaxTwins bounds the switches beside the first.
	MaxTwins = 7
	// MaxPairs is bounded by the switch's table of replication ids.
	MaxPairs = 1023
	// MaxPort is the highest number of a front port; above it are the ports that
	// the P4 program gives a meaning to.
	MaxPort = 509
)

// MAC is an Ethernet address.
type MAC [6]byte

func (m MAC) String() string { return net.HardwareAddr(m[:]).String() }

// PairServices returns the services of a pair, in the order of the file.
func (c *Config) PairServices(pair string) []Service {
	var list []Service
	for _, s := range c.Services {
		if s.Pair == pair {
			list = append(list, s)
		}
	}
	return list
}

// Fault is one thing that is wrong.
type Fault struct {
	File string
	Line int // 0 for an object
	// Object is not nil for a fault of something that was made through the API. File
	// is empty then.
	Object *Object
	// What is wrong; what to do about it.
	What, Do string
}

func (f Fault) Error() string {
	where := fmt.Sprintf("%s:%d", f.File, f.Line)
	if f.Object != nil {
		where = f.Object.String()
	}
	return fmt.Sprintf("%s: %s; %s", where, f.What, f.Do)
}

// order sorts faults: objects come after the file.
func (f Fault) order() int {
	if f.Object != nil {
		return objectLine
	}
	return f.Line
}

// Faults are all that is wrong, in the order of the file. There is at least one.
type Faults []Fault

func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Load reads and checks a file. An error about its content is of type Faults.
func Load(path string) (*Config, error) {
	text, err := ReadFile(path)
	if err != nil {
		return nil, err
	}
	return Parse(path, text)
}

// ReadFile reads a configuration's text, of which it reads no more than one may
// have.
func ReadFile(path string) ([]byte, error) {
	text, err := func() ([]byte, error) {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxFile+1))
	}()
	if err != nil {
		return nil, fmt.Errorf("configuration: %w; name a file that exists and can be read", err)
	}
	return text, nil
}
