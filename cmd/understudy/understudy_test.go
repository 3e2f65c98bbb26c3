// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/internal/version"
)

func TestMain(m *testing.M) {
	time.Local = time.UTC // what the tests expect is in UTC
	os.Exit(m.Run())
}

func noEnv(string) string { return "" }

// walk calls f for every command of ours.
func walk(cmd *cobra.Command, f func(*cobra.Command)) {
	f(cmd)
	for _, c := range cmd.Commands() {
		if c.Name() != "help" && c.Name() != "completion" {
			walk(c, f)
		}
	}
}

func TestEveryCommandHelps(t *testing.T) {
	root := newRoot(noEnv)
	n := 0
	walk(root, func(cmd *cobra.Command) {
		n++
		path := cmd.CommandPath()
		switch {
		case cmd.Short == "" || strings.HasSuffix(cmd.Short, "."):
			t.Errorf("%s: Short is a phrase without a full stop: %q", path, cmd.Short)
		case len(cmd.Long) < len(cmd.Short)/2 || !strings.Contains(cmd.Long, "."):
			t.Errorf("%s: Long explains too little: %q", path, cmd.Long)
		case !cmd.HasSubCommands() && cmd.RunE == nil:
			t.Errorf("%s does nothing", path)
		case cmd.Args == nil && !cmd.HasSubCommands():
			t.Errorf("%s does not say what arguments it takes", path)
		}
		for _, text := range []string{cmd.Long, cmd.Example} {
			for line := range strings.Lines(text) {
				if len(strings.TrimRight(line, "\n")) > 85 {
					t.Errorf("%s: a line of %d: %s", path, len(line), line)
				}
			}
		}
		for line := range strings.Lines(cmd.Example) {
			// What an example shows exists.
			args := strings.Fields(line)
			if len(args) == 0 || args[0] != "understudy" {
				t.Errorf("%s: example %q", path, line)
				continue
			}
			found, _, err := root.Find(args[1:])
			if err != nil || found.CommandPath() != path {
				t.Errorf("%s: the example %q is one of %s", path, strings.TrimSpace(line), found.CommandPath())
			}
			for _, a := range args[1:] {
				if name, ok := strings.CutPrefix(a, "--"); ok && found.Flag(name) == nil {
					t.Errorf("%s: no flag --%s", path, name)
				}
			}
		}
		cmd.InitDefaultHelpFlag()
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s has no help", path, f.Name)
			}
		})
		var out bytes.Buffer
		cmd.SetOut(&out)
		if err := cmd.Help(); err != nil || !strings.Contains(out.String(), "Usage:") {
			t.Errorf("%s: help: %v\n%s", path, err, &out)
		}
	})
	if n < 15 {
		t.Errorf("only %d commands", n)
	}
}

// fakeAdmin answers as a controller would, in the middle of things.
type fakeAdmin struct {
	adminv1.UnimplementedAdminServer
}

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func webPair() *adminv1.Pair {
	return &adminv1.Pair{
		Name: "web", State: adminv1.PairState_PAIR_STATE_DUPLEX, Epoch: 7, Connections: 50, Protected: 49,
		Servers: []*adminv1.Server{
			{Name: "server1", Role: adminv1.ServerRole_SERVER_ROLE_BACKUP, Attached: true},
			{Name: "server2", Role: adminv1.ServerRole_SERVER_ROLE_ACTIVE, Attached: true, ApplicationUp: true, LastHeartbeat: timestamppb.New(noon)},
		},
		Services: []*adminv1.Service{{Name: "web", Vip: "198.51.100.10", Protocol: "tcp", Port: 80}},
	}
}

func webFailover() *adminv1.Failover {
	at := func(us int) *timestamppb.Timestamp {
		return timestamppb.New(noon.Add(time.Duration(us) * time.Microsecond))
	}
	return &adminv1.Failover{
		Pair: "web", Epoch: 7, From: "server1", To: "server2", Cause: "heartbeats missed",
		Suspected: at(0), Decided: at(31_500), Written: at(32_250), Released: at(32_750), DecideToWritten: durationpb.New(750 * time.Microsecond),
	}
}

func (fakeAdmin) ListPairs(_ context.Context, r *adminv1.ListPairsRequest) (*adminv1.ListPairsResponse, error) {
	if r.GetPair() != "" && r.GetPair() != "web" {
		return nil, status.Errorf(codes.NotFound, "no pair %q", r.GetPair())
	}
	return &adminv1.ListPairsResponse{Pairs: []*adminv1.Pair{webPair()}}, nil
}

func (fakeAdmin) SwitchOver(_ context.Context, r *adminv1.SwitchOverRequest) (*adminv1.SwitchOverResponse, error) {
	if r.GetPair() == "alone" {
		return nil, status.Error(codes.FailedPrecondition, "pair alone is simplex: no backup holds the connections")
	}
	return &adminv1.SwitchOverResponse{Failover: webFailover()}, nil
}

func (fakeAdmin) ListFailovers(context.Context, *adminv1.ListFailoversRequest) (*adminv1.ListFailoversResponse, error) {
	return &adminv1.ListFailoversResponse{Failovers: []*adminv1.Failover{webFailover()}}, nil
}

func (fakeAdmin) WatchEvents(_ *adminv1.WatchEventsRequest, s grpc.ServerStreamingServer[adminv1.Event]) error {
	s.Send(&adminv1.Event{Time: timestamppb.New(noon), Type: adminv1.EventType_EVENT_TYPE_SNAPSHOT, Pair: webPair()})
	s.Send(&adminv1.Event{Time: timestamppb.New(noon), Type: adminv1.EventType_EVENT_TYPE_FAILOVER, Message: "it goes on", Failover: webFailover()})
	return nil
}

func (f fakeAdmin) WatchPairs(r *adminv1.ListPairsRequest, s grpc.ServerStreamingServer[adminv1.ListPairsResponse]) error {
	list, err := f.ListPairs(s.Context(), r)
	if err != nil {
		return err
	}
	s.Send(list)
	return s.Send(list)
}

func (fakeAdmin) ListServices(context.Context, *adminv1.ListServicesRequest) (*adminv1.ListServicesResponse, error) {
	return &adminv1.ListServicesResponse{Services: webPair().GetServices()}, nil
}

func (fakeAdmin) ListSwitches(context.Context, *adminv1.ListSwitchesRequest) (*adminv1.ListSwitchesResponse, error) {
	return &adminv1.ListSwitchesResponse{Switches: []*adminv1.Switch{{Name: "s1", Address: "h:9559", DeviceId: 1, State: "ready", Entries: 12, Groups: 1}}}, nil
}

func (fakeAdmin) ListPeers(context.Context, *adminv1.ListPeersRequest) (*adminv1.ListPeersResponse, error) {
	return &adminv1.ListPeersResponse{Peers: []*adminv1.Peer{{Name: "r1", Address: "192.0.2.1", Asn: 64513, State: "established"}}, Routes: []string{"198.51.100.10/32"}}, nil
}

func (fakeAdmin) GetDiagnosis(_ context.Context, r *adminv1.GetDiagnosisRequest) (*adminv1.Diagnosis, error) {
	d := &adminv1.Diagnosis{Service: r.GetService(), Checks: []*adminv1.Check{
		{Name: "switch", Result: adminv1.Check_RESULT_OK, Found: "ready"},
		{Name: "backup", Result: adminv1.Check_RESULT_WARNING, Found: "there is none", Advice: "start one"},
	}}
	switch r.GetService() {
	case "web":
		d.Checks = d.Checks[:1]
	case "broken":
		d.Checks = append(d.Checks, &adminv1.Check{Name: "agent on a", Result: adminv1.Check_RESULT_FAILED, Found: "it is gone", Advice: "start it"})
	}
	return d, nil
}

func (fakeAdmin) SetLogLevel(_ context.Context, r *adminv1.SetLogLevelRequest) (*adminv1.LogLevel, error) {
	return nil, status.Error(codes.PermissionDenied, "viewer wall may look, and not change anything")
}

func (fakeAdmin) GetLogLevel(context.Context, *adminv1.GetLogLevelRequest) (*adminv1.LogLevel, error) {
	return &adminv1.LogLevel{Level: "info"}, nil
}

func startAdmin(t *testing.T) string {
	t.Helper()
	address := filepath.Join(t.TempDir(), "admin.sock")
	ln, err := net.Listen("unix", address)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	adminv1.RegisterAdminServer(srv, fakeAdmin{})
	go srv.Serve(ln)
	t.Cleanup(srv.Stop)
	return "unix:" + address
}

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	root := newRoot(noEnv)
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return out.String(), err
}

func TestCommandsOverTheAPI(t *testing.T) {
	address := startAdmin(t)
	for _, tc := range []struct {
		args    []string
		want    []string
		wantErr string
	}{
		{[]string{"pairs"}, []string{
			"PAIR  STATE   EPOCH  CONNECTIONS  PROTECTED  SERVICES",
			"web   duplex  7      50           49         198.51.100.10:80/tcp",
			"web   server1  backup  attached  down         -",
			"web   server2  active  attached  up ",
		}, ""},
		{[]string{"pairs", "web", "-o", "json"}, []string{`"state": "PAIR_STATE_DUPLEX"`, `"application_up": true`, `"epoch": "7"`}, ""},
		{[]string{"pairs", "nobody"}, nil, `no pair "nobody"`},
		{[]string{"pairs", "-o", "xml"}, nil, "want table, json or yaml"},
		{[]string{"switch-over", "web"}, []string{"web: server2 is active, server1 was; epoch 7, written within 0.75 ms"}, ""},
		{[]string{"switch-over", "web", "-o", "json"}, []string{`"cause": "heartbeats missed"`}, ""},
		{[]string{"switch-over", "alone"}, nil, "no backup holds the connections"},
		{[]string{"switch-over"}, nil, "accepts 1 arg"},
		{[]string{"failovers"}, []string{"2026-01-02 12:00:00.031  web   7      server1  server2  heartbeats missed  31.50 ms  0.75 ms  0.50 ms"}, ""},
		{[]string{"failovers", "-o", "json"}, []string{`"decide_to_written": "0.000750s"`}, ""},
		{[]string{"pairs", "-o", "yaml"}, []string{"pairs:\n", "  - name: web\n", "state: PAIR_STATE_DUPLEX\n", "epoch: \"7\"\n", "application_up: true\n"}, ""},
		{[]string{"pairs", "--watch"}, []string{"-- ", "web   duplex  7"}, "ended the stream"},
		{[]string{"pairs", "nobody", "--watch"}, nil, `no pair "nobody"`},
		{[]string{"pairs", "-w", "-o", "yaml"}, []string{"---\npairs:\n"}, "ended the stream"},
		{[]string{"servers"}, []string{"web   server2  active  attached  up "}, ""},
		{[]string{"switches"}, []string{"s1      h:9559   1       ready    12       1"}, ""},
		{[]string{"peers"}, []string{"r1    192.0.2.1  64513  established", "announced: 198.51.100.10/32"}, ""},
		{[]string{"doctor", "web"}, []string{"switch  ok      ready", "all is well"}, ""},
		{[]string{"doctor", "alone"}, []string{"it works, but backup: there is none; start one"}, ""},
		{[]string{"doctor", "broken"}, []string{"begin with agent on a"}, "service broken: agent on a: it is gone; start it"},
		{[]string{"log-level"}, []string{"info\n"}, ""},
		{[]string{"log-level", "debug"}, nil, "viewer wall may look"},
		{[]string{"watch"}, []string{
			"12:00:00.000  snapshot       web duplex epoch 7 (server1 backup, server2 active)",
			"12:00:00.000  failover       server1 to server2: heartbeats missed  it goes on",
		}, "ended the stream"},
		{[]string{"watch", "-o", "json"}, []string{`"type":"EVENT_TYPE_SNAPSHOT"`}, "ended the stream"},
	} {
		t.Run(strings.Join(tc.args, " "), func(t *testing.T) {
			out, err := run(t, append([]string{"--address", address}, tc.args...)...)
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
			if tc.wantErr == "" && err != nil || tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)) {
				t.Errorf("error %v, want %q", err, tc.wantErr)
			}
		})
	}
}

func TestJSONIsJSON(t *testing.T) {
	address := startAdmin(t)
	for _, args := range [][]string{{"pairs"}, {"failovers"}, {"switch-over", "web"}} {
		out, err := run(t, append(args, "-o", "json", "--address", address)...)
		if err != nil || !json.Valid([]byte(out)) {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	out, _ := run(t, "watch", "-o", "json", "--address", address)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Errorf("%d lines", len(lines))
	}
	for _, l := range lines {
		if !json.Valid([]byte(l)) {
			t.Errorf("%s", l)
		}
	}
}

func TestNobodyAnswers(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := run(t, "pairs", "--insecure", "--address", ln.Addr().String()); err == nil || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("got %v", err)
	}
}

// Whatever is wrong with a command line is told in one line that says what to do.
func TestWrongCommandLines(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"bogus"}, `unknown command "bogus" for "understudy"; see understudy --help`},
		{[]string{"lab", "bogus"}, "see understudy lab --help"},
		{[]string{"--bogus"}, "unknown flag: --bogus; see understudy --help"},
		{[]string{"pairs", "--bogus"}, "unknown flag: --bogus; see understudy pairs --help"},
		{[]string{"pairs", "-o", "xml"}, "want table, json or yaml; see understudy pairs --help"},
		{[]string{"pairs", "a", "b"}, "see understudy pairs --help"},
		{[]string{"switch-over"}, "see understudy switch-over --help"},
		{[]string{"pairs", "--address", ""}, "host:port or unix:PATH"},
		{[]string{"pairs", "--address", "unix:"}, "host:port or unix:PATH"},
		{[]string{"pairs", "--address", "127.0.0.1"}, "host:port or unix:PATH"},
		{[]string{"pairs", "--address", "host:1\nb"}, "host:port or unix:PATH"},
		{[]string{"pairs", "--address", "host:1"}, "asks who you are; give --cert, --key and --ca"},
		{[]string{"pairs", "--address", "host:1", "--cert", "/none", "--key", "/none", "--ca", "/none"}, "no such file or directory; see understudy certs"},
		{[]string{"pairs", "--address", "unix:/nonexistent/socket"}, "no such file or directory; start it, or name another one"},
	} {
		out, err := run(t, tc.args...)
		switch {
		case err == nil:
			t.Errorf("%q is not an error:\n%s", tc.args, out)
		case !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n"):
			t.Errorf("%q: %q, want one line with %q", tc.args, err, tc.want)
		case out != "":
			t.Errorf("%q printed %q", tc.args, out)
		}
	}
}

func TestVersion(t *testing.T) {
	want := "understudy " + version.String()
	for _, args := range [][]string{{"version"}, {"--version"}} {
		if out, err := run(t, args...); err != nil || !strings.HasPrefix(out, want) {
			t.Errorf("%v: %q, %v", args, out, err)
		}
	}
}

func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if out, err := run(t, "completion", shell); err != nil || !strings.Contains(out, "understudy") {
			t.Errorf("%s: %v", shell, err)
		}
	}
	if out, _ := run(t, "__complete", "pairs", "-o", ""); !strings.Contains(out, "json") {
		t.Errorf("%s", out)
	}
}

// A script can tell from the exit code what happened.
func TestExitCodes(t *testing.T) {
	address := startAdmin(t)
	for _, tc := range []struct {
		args []string
		want int
	}{
		{[]string{"pairs"}, 0},
		{[]string{"pairs", "nobody"}, exitFailed},
		{[]string{"pairs", "--bogus"}, exitUsage},
		{[]string{"bogus"}, exitUsage},
		{[]string{"services", "create", "x"}, exitUsage},
		{[]string{"pairs", "--address", "unix:/nonexistent/socket"}, exitNobody},
		{[]string{"log-level", "debug"}, exitDenied},
		{[]string{"doctor", "alone"}, 0},
		{[]string{"doctor", "broken"}, exitUnwell},
	} {
		if _, err := run(t, append([]string{"--address", address}, tc.args...)...); exitCode(err) != tc.want {
			t.Errorf("%v: %d (%v), want %d", tc.args, exitCode(err), err, tc.want)
		}
	}
}

// A bundle has what could be had, and says what could not.
func TestSupportBundle(t *testing.T) {
	out, err := run(t, "support-bundle", "--out", "-", "--address", startAdmin(t))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || h.Mode != 0o600 {
			t.Errorf("%s: %v, mode %o", h.Name, err, h.Mode)
		}
		files[h.Name] = string(text)
	}
	for name, want := range map[string]string{
		"understudy/pairs.json": `"server2"`, "understudy/failovers.json": "heartbeats missed", "understudy/diagnosis-web.json": `"ready"`,
		"understudy/version.txt": version.String(), "understudy/missing.txt": "configuration.json: ",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s: %q, want %q", name, files[name], want)
		}
	}
	if _, err := run(t, "support-bundle", "--out", "-", "--address", "unix:/nonexistent/socket"); exitCode(err) != exitNobody {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestFormat(t *testing.T) {
	f := asTable
	if err := f.Set("json"); err != nil || f != asJSON {
		t.Error(err)
	}
	if diff := cmp.Diff("json", f.String()); diff != "" {
		t.Error(diff)
	}
}
