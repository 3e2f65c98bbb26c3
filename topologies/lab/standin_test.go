// SPDX-License-Identifier: Apache-2.0

//go:build linux

package lab

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	switchfaultv1 "github.com/understudy-net/understudy/api/switchfault/v1"
	"github.com/understudy-net/understudy/topologies/lab/app"
)

// The test binary, called by the name of one of Understudy's programs, stands in
// for it: it does what the lab needs of it, and forwards no packet.
func TestMain(m *testing.M) {
	var err error
	switch filepath.Base(os.Args[0]) {
	case "understudy-switch", "simple_switch_grpc":
		err = standInSwitch(os.Args[1:])
	case "understudy-controller":
		err = standInController(os.Args[2])
	case "understudy-agent":
		err = standInAgent(os.Args[2])
	case "understudy": // lab app --listen ADDRESS --name NAME
		var ln net.Listener
		if ln, err = net.Listen("tcp", os.Args[4]); err == nil {
			err = app.Serve(context.Background(), ln, os.Args[6])
		}
	default:
		os.Exit(m.Run())
	}
	fmt.Fprintln(os.Stderr, "stand-in:", err)
	os.Exit(1)
}

// standIns returns a directory of stand-ins.
func standIns(t *testing.T) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"understudy", "understudy-switch", "understudy-controller", "understudy-agent", "simple_switch_grpc"} {
		if err := os.Symlink(exe, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

type drops struct {
	switchfaultv1.UnimplementedFaultsServer
	mu   sync.Mutex
	drop map[uint32]uint32
}

func (d *drops) SetDrop(_ context.Context, r *switchfaultv1.SetDropRequest) (*switchfaultv1.SetDropResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop[r.GetPort()] = r.GetOneIn()
	fmt.Fprintf(os.Stderr, "port %d: drop one in %d\n", r.GetPort(), r.GetOneIn())
	return &switchfaultv1.SetDropResponse{}, nil
}

func standInSwitch(args []string) error {
	fmt.Fprintln(os.Stderr, strings.Join(args, " "))
	if os.Getenv("STAND_IN_SWITCH_FAILS") != "" {
		return fmt.Errorf("no mood to forward")
	}
	for i, a := range args {
		if a == "-i" {
			_, name, _ := strings.Cut(args[i+1], "@")
			if _, err := net.InterfaceByName(name); err != nil {
				return err
			}
			// As bmv2 does; the embedded switch asks the kernel by netlink.
			if _, err := os.Stat("/sys/class/net/" + name); err != nil && filepath.Base(os.Args[0]) == "simple_switch_grpc" {
				return err
			}
		}
		if a == "--grpc-server-addr" {
			ln, err := net.Listen("tcp", args[i+1])
			if err != nil {
				return err
			}
			srv := grpc.NewServer()
			switchfaultv1.RegisterFaultsServer(srv, &drops{drop: make(map[uint32]uint32)})
			defer srv.Serve(ln)
		}
	}
	return nil
}

func readYAML(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return yaml.Unmarshal(b, v)
}

// standInAgent says every few milliseconds that it lives and how its server is.
func standInAgent(file string) error {
	var config agentFile
	if err := readYAML(file, &config); err != nil {
		return err
	}
	// As real pins would be: on the BPF file system, to be forgotten at a power cut.
	if err := os.Mkdir(filepath.Join(config.PinDir, "pinned"), 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	var conn net.Conn
	for range time.Tick(10 * time.Millisecond) {
		var err error
		if conn == nil {
			if conn, err = net.DialTimeout("tcp", config.Controller, 100*time.Millisecond); err != nil {
				continue
			}
		}
		appUp, linkUp := true, false
		if c, err := net.Dial("tcp", "127.0.0.1:8080"); err != nil {
			appUp = false
		} else {
			c.Close()
		}
		if i, err := net.InterfaceByName(config.Interface); err == nil {
			linkUp = i.Flags&net.FlagRunning != 0
		}
		conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		if _, err := fmt.Fprintln(conn, config.Server, appUp, linkUp); err != nil {
			conn.Close()
			conn = nil
		}
	}
	return nil
}

// standInPair is the controller's mind.
type standInPair struct {
	adminv1.UnimplementedAdminServer
	mu        sync.Mutex
	config    controllerFile
	seen      map[string]time.Time // the last good word of each server
	appUp     map[string]bool
	active    string
	epoch     uint64
	failovers []*adminv1.Failover
}

func (p *standInPair) alive(server string) bool {
	return p.appUp[server] && time.Since(p.seen[server]) < 60*time.Millisecond
}

func (p *standInPair) step() {
	servers := p.config.Pairs[0].Servers
	if p.alive(p.active) {
		return
	}
	for _, s := range servers {
		if s.Name != p.active && p.alive(s.Name) {
			p.epoch++
			now := timestamppb.Now()
			if p.active != "" {
				p.failovers = append(p.failovers, &adminv1.Failover{
					Pair: p.config.Pairs[0].Name, Epoch: p.epoch, From: p.active, To: s.Name, Decided: now, Written: now,
				})
			}
			p.active = s.Name
			return
		}
	}
}

func (p *standInPair) heard(server string, appUp, linkUp bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.appUp[server] = appUp
	if linkUp {
		p.seen[server] = time.Now()
	}
}

func (p *standInPair) ListPairs(context.Context, *adminv1.ListPairsRequest) (*adminv1.ListPairsResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pair := &adminv1.Pair{Name: p.config.Pairs[0].Name, Epoch: p.epoch, State: adminv1.PairState_PAIR_STATE_DUPLEX}
	for _, s := range p.config.Pairs[0].Servers {
		server := &adminv1.Server{Name: s.Name, Attached: p.alive(s.Name), ApplicationUp: p.appUp[s.Name], Role: adminv1.ServerRole_SERVER_ROLE_BACKUP}
		if s.Name == p.active {
			server.Role = adminv1.ServerRole_SERVER_ROLE_ACTIVE
		}
		if !server.Attached {
			pair.State = adminv1.PairState_PAIR_STATE_SIMPLEX
			server.Role = adminv1.ServerRole_SERVER_ROLE_FENCED
		}
		pair.Servers = append(pair.Servers, server)
	}
	return &adminv1.ListPairsResponse{Pairs: []*adminv1.Pair{pair}}, nil
}

func (p *standInPair) ListFailovers(context.Context, *adminv1.ListFailoversRequest) (*adminv1.ListFailoversResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &adminv1.ListFailoversResponse{Failovers: p.failovers}, nil
}

func (p *standInPair) SwitchOver(context.Context, *adminv1.SwitchOverRequest) (*adminv1.SwitchOverResponse, error) {
	return nil, status.Error(codes.Unimplemented, "a stand-in")
}

func standInController(file string) error {
	p := &standInPair{seen: make(map[string]time.Time), appUp: make(map[string]bool)}
	if err := readYAML(file, &p.config); err != nil {
		return err
	}
	agents, err := net.Listen("tcp", p.config.Listen.Agents)
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := agents.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for in := bufio.NewScanner(conn); in.Scan(); {
					var server string
					var appUp, linkUp bool
					fmt.Sscan(in.Text(), &server, &appUp, &linkUp)
					p.heard(server, appUp, linkUp)
				}
			}()
		}
	}()
	go func() {
		for range time.Tick(5 * time.Millisecond) {
			p.mu.Lock()
			p.step()
			p.mu.Unlock()
		}
	}()
	ln, err := net.Listen("unix", strings.TrimPrefix(p.config.Listen.Admin, "unix:"))
	if err != nil {
		return err
	}
	srv := grpc.NewServer()
	adminv1.RegisterAdminServer(srv, p)
	return srv.Serve(ln)
}
