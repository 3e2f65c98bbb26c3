// SPDX-License-Identifier: Apache-2.0

package admin

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	gnmipb "github.com/openconfig/gnmi/proto/gnmi"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/internal/pki"
)

// guarded is a server that asks for certificates, with its authority and its account.
type guarded struct {
	t         *testing.T
	dir       string
	authority *pki.Authority
	address   string
	account   string
}

func newGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{t: t, dir: filepath.Join(t.TempDir(), "pki"), account: filepath.Join(t.TempDir(), "audit", "log.jsonl")}
	var err error
	if g.authority, err = pki.CreateAuthority(g.dir, "test", time.Now); err != nil {
		t.Fatal(err)
	}
	source := g.issue(pki.Request{Identity: pki.Identity{Kind: pki.Controller, Name: "c"}, Hosts: []string{"127.0.0.1"}})
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.address = l.Addr().String()
	creds, err := Credentials(l, source, false)
	if err != nil {
		t.Fatal(err)
	}
	audit, err := OpenAudit(g.account, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	s := New(Options{Backend: &backend{}, Credentials: creds, Audit: audit})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		audit.Close()
	})
	return g
}

func (g *guarded) issue(r pki.Request) *pki.Source {
	g.t.Helper()
	base := filepath.Join(g.dir, string(r.Identity.Kind)+"-"+r.Identity.Name)
	if _, err := g.authority.Issue(r, base); err != nil {
		g.t.Fatal(err)
	}
	s, err := pki.Open(pki.Files{Cert: base + ".crt", Key: base + ".key", CA: filepath.Join(g.dir, pki.AuthorityCert)}, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return s
}

// as returns the credentials of somebody.
func (g *guarded) as(kind pki.Kind, name string) credentials.TransportCredentials {
	return pki.ClientCredentials(g.issue(pki.Request{Identity: pki.Identity{Kind: kind, Name: name}}), pki.Controller)
}

func (g *guarded) dial(creds credentials.TransportCredentials) *grpc.ClientConn {
	g.t.Helper()
	conn, err := grpc.NewClient(g.address, grpc.WithTransportCredentials(creds))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { conn.Close() })
	return conn
}

type line struct {
	Time, Msg, Who, From, Method, Result, Error string
	Request                                     map[string]any
	NotKeptBefore                               int `json:"not_kept_before"`
}

// lines reads the account.
func (g *guarded) lines() []line {
	g.t.Helper()
	f, err := os.Open(g.account)
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	var list []line
	for scan := bufio.NewScanner(f); scan.Scan(); {
		var l line
		if err := json.Unmarshal(scan.Bytes(), &l); err != nil {
			g.t.Fatalf("%s: %v", scan.Text(), err)
		}
		list = append(list, l)
	}
	return list
}

// calls are one of each kind.
var calls = map[string]func(context.Context, *grpc.ClientConn) error{
	"ListPairs": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := adminv1.NewAdminClient(c).ListPairs(ctx, &adminv1.ListPairsRequest{})
		return err
	},
	"SwitchOver": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := adminv1.NewAdminClient(c).SwitchOver(ctx, &adminv1.SwitchOverRequest{Pair: "web"})
		return err
	},
	"Check": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := healthv1.NewHealthClient(c).Check(ctx, &healthv1.HealthCheckRequest{})
		return err
	},
	"ServerReflectionInfo": func(ctx context.Context, c *grpc.ClientConn) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := reflectionv1.NewServerReflectionClient(c).ServerReflectionInfo(ctx)
		if err != nil {
			return err
		}
		stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
		_, err = stream.Recv()
		return err
	},
}

// Each role may do what it may, and everything else is refused, with what to do, and
// kept.
func TestRoles(t *testing.T) {
	g := newGuarded(t)
	foreignDir := filepath.Join(t.TempDir(), "foreign")
	foreign, err := pki.CreateAuthority(foreignDir, "foreign", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := foreign.Issue(pki.Request{Identity: pki.Identity{Kind: pki.Operator, Name: "eve"}}, filepath.Join(foreignDir, "eve")); err != nil {
		t.Fatal(err)
	}
	eve, err := pki.Open(pki.Files{Cert: filepath.Join(foreignDir, "eve.crt"), Key: filepath.Join(foreignDir, "eve.key"), CA: filepath.Join(g.dir, pki.AuthorityCert)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	past, err := pki.OpenAuthority(g.dir, func() time.Time { return time.Now().Add(-2 * time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(g.dir, "late")
	if _, err := past.Issue(pki.Request{Identity: pki.Identity{Kind: pki.Operator, Name: "late"}, Life: time.Hour}, base); err != nil {
		t.Fatal(err)
	}
	late, err := pki.Open(pki.Files{Cert: base + ".crt", Key: base + ".key", CA: filepath.Join(g.dir, pki.AuthorityCert)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(g.authority.Cert)
	for _, tc := range []struct {
		name         string
		creds        credentials.TransportCredentials
		look, change codes.Code
		message      string
		who          string
	}{
		{"operator", g.as(pki.Operator, "alice"), codes.OK, codes.OK, "", "operator alice"},
		{"viewer", g.as(pki.Viewer, "wall"), codes.OK, codes.PermissionDenied, "viewer wall may look, and not change anything; use", "viewer wall"},
		{"agent", g.as(pki.Server, "server1"), codes.Unauthenticated, codes.Unauthenticated, "server server1 has no business here; use", "server server1"},
		{"nobody", credentials.NewClientTLSFromCert(roots, ""), codes.Unauthenticated, codes.Unauthenticated, "no client certificate; give one", "unknown"},
		{"expired", pki.ClientCredentials(late, pki.Controller), codes.Unauthenticated, codes.Unauthenticated, "that of operator late is good from", "unknown"},
		{"stranger", pki.ClientCredentials(eve, pki.Controller), codes.Unauthenticated, codes.Unauthenticated, "not from an authority that is trusted here", "unknown"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conn := g.dial(tc.creds)
			before := len(g.lines())
			refusals := 0
			for name, call := range calls {
				want := tc.look
				if name == "SwitchOver" {
					want = tc.change
				}
				err := call(t.Context(), conn)
				st := status.Convert(err)
				if st.Code() != want || want != codes.OK && !strings.Contains(st.Message(), tc.message) {
					t.Errorf("%s: %v, want %v with %q", name, err, want, tc.message)
				}
				if want == codes.OK {
					continue
				}
				refusals++
				if len(st.Details()) != 1 {
					t.Errorf("%s: details %v", name, st.Details())
				} else if info, ok := st.Details()[0].(*errdetails.ErrorInfo); !ok || info.GetDomain() != errorDomain || info.GetReason() == "" {
					t.Errorf("%s: details %v", name, st.Details())
				}
			}
			lines := g.lines()[before:]
			changes := 0
			for _, l := range lines {
				switch {
				case l.Who != tc.who || !strings.HasPrefix(l.From, "127.0.0.1:") || l.Time == "":
					t.Errorf("line %+v, want who %q", l, tc.who)
				case l.Msg == "refused" && l.Result != "OK" && strings.Contains(l.Error, tc.message):
					refusals--
				case l.Msg == "change" && l.Method == "SwitchOver" && l.Result == "OK" && l.Request["pair"] == "web":
					changes++
				default:
					t.Errorf("line %+v", l)
				}
			}
			if refusals != 0 || (changes == 1) != (tc.change == codes.OK) {
				t.Errorf("%d refusals are not kept, %d changes are: %+v", refusals, changes, lines)
			}
		})
	}
}

// Who does not even speak TLS is refused, and kept.
func TestInTheClear(t *testing.T) {
	g := newGuarded(t)
	err := calls["ListPairs"](t.Context(), g.dial(insecure.NewCredentials()))
	if status.Code(err) != codes.Unavailable {
		t.Errorf("error %v", err)
	}
	// The client may know it before the account does.
	lines := g.lines()
	for end := time.Now().Add(20 * time.Second); len(lines) == 0 && time.Now().Before(end); lines = g.lines() {
		time.Sleep(time.Millisecond)
	}
	if len(lines) == 0 || lines[0].Msg != "refused" || lines[0].Method != "handshake" || lines[0].Result != "Unauthenticated" {
		t.Errorf("lines %+v", lines)
	}
}

// Every method is one that looks, or one for operators; a list that has a method that
// is not served is out of date.
func TestViewingMethodsExist(t *testing.T) {
	s := New(Options{Backend: &backend{}, Credentials: insecure.NewCredentials(), Telemetry: gnmipb.UnimplementedGNMIServer{}})
	served := map[string]bool{}
	for name, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			served["/"+name+"/"+m.Name] = true
		}
	}
	for m := range viewing {
		if !served[m] {
			t.Errorf("%s is not served", m)
		}
	}
	for m := range served {
		name := m[strings.LastIndex(m, "/")+1:]
		looks := strings.HasPrefix(name, "List") || strings.HasPrefix(name, "Get") || strings.HasPrefix(name, "Watch")
		if looks && !viewing[m] {
			t.Errorf("%s looks like one for viewers", m)
		}
	}
}

// A server whose credentials say nothing lets in nobody.
func TestNoCredentials(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Credentials(l, nil, false); err == nil || !strings.Contains(err.Error(), "configure tls, or listen on unix:PATH") {
		t.Errorf("Credentials: %v", err)
	}
	s := New(Options{Backend: &backend{}, Credentials: insecure.NewCredentials()})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, call := range calls {
		if err := call(t.Context(), conn); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A call ends, even if its caller does not say when; who says when is believed.
func TestDeadlines(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	creds, err := Credentials(l, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	b := &timed{}
	s := New(Options{Backend: b, Credentials: creds})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	defer func() { cancel(); <-done }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	long, cancelLong := context.WithTimeout(t.Context(), 10*callPatience)
	defer cancelLong()
	for _, tc := range []struct {
		ctx      context.Context
		from, to time.Duration
	}{{t.Context(), 0, callPatience}, {long, 9 * callPatience, 10 * callPatience}} {
		if err := calls["ListPairs"](tc.ctx, conn); err != nil {
			t.Fatal(err)
		}
		if left := time.Duration(b.left.Load()); left <= tc.from || left > tc.to {
			t.Errorf("it has %v left, want %v to %v", left, tc.from, tc.to)
		}
	}
}

// timed notes how long a call may take.
type timed struct {
	backend
	left atomic.Int64
}

func (b *timed) Pairs(ctx context.Context, _ string) ([]*adminv1.Pair, error) {
	if at, ok := ctx.Deadline(); ok {
		b.left.Store(int64(time.Until(at)))
	}
	return nil, nil
}

// A flood of refusals does not fill the disk, and what is not kept is counted.
func TestRefusalsAreBounded(t *testing.T) {
	g := &guarded{t: t, account: filepath.Join(t.TempDir(), "log.jsonl")}
	a, err := OpenAudit(g.account, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	at := time.Now()
	for range 10 * refusalBurst {
		a.refused(at, caller{who: "unknown"}, "/x/SwitchOver", nil, status.Error(codes.Unauthenticated, "no"))
	}
	if n := len(g.lines()); n != refusalBurst {
		t.Errorf("%d lines, want %d", n, refusalBurst)
	}
	a.refused(at.Add(refusalPause), caller{who: "unknown"}, "/x/SwitchOver", nil, status.Error(codes.Unauthenticated, "no"))
	if lines := g.lines(); lines[len(lines)-1].NotKeptBefore != 9*refusalBurst {
		t.Errorf("the last line is %+v", lines[len(lines)-1])
	}
	// Changes are kept whatever was refused.
	a.change(at, caller{who: "uid 0"}, "/x/SwitchOver", &adminv1.SwitchOverRequest{Pair: "web"}, nil, nil)
	if lines := g.lines(); lines[len(lines)-1].Msg != "change" {
		t.Errorf("the last line is %+v", lines[len(lines)-1])
	}
}

// A full file is kept, and another one is begun; a configuration's text is not kept.
func TestAuditTurns(t *testing.T) {
	g := &guarded{t: t, account: filepath.Join(t.TempDir(), "log.jsonl")}
	a, err := OpenAudit(g.account, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	req := &adminv1.ApplyConfigurationRequest{File: "x.yaml", Text: []byte("secret: yes")}
	a.change(time.Now(), caller{who: "uid 0"}, "/x/ApplyConfiguration", req, &adminv1.Plan{FromVersion: "1", ToVersion: "2"}, nil)
	first, err := os.ReadFile(g.account)
	if err != nil || strings.Contains(string(first), "secret") || !strings.Contains(string(first), `"to_version":"2"`) {
		t.Errorf("%s, %v", first, err)
	}
	a.size = maxAudit
	a.change(time.Now(), caller{who: "uid 1"}, "/x/DeleteService", &adminv1.DeleteServiceRequest{Name: "web"}, nil, fmt.Errorf("no"))
	if lines := g.lines(); len(lines) != 1 || lines[0].Who != "uid 1" || lines[0].Result != "Unknown" {
		t.Errorf("lines %+v", lines)
	}
	if old, err := os.ReadFile(g.account + ".1"); err != nil || string(old) != string(first) {
		t.Errorf("%s, %v", old, err)
	}
}
