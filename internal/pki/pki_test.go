// SPDX-License-Identifier: Apache-2.0

package pki

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func authority(t *testing.T, now func() time.Time) (*Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := CreateAuthority(dir, "test", now)
	if err != nil {
		t.Fatal(err)
	}
	return a, dir
}

// issue writes a certificate and returns the files of its holder.
func issue(t *testing.T, a *Authority, dir string, r Request) Files {
	t.Helper()
	base := filepath.Join(dir, string(r.Identity.Kind)+"-"+r.Identity.Name)
	if _, err := a.Issue(r, base); err != nil {
		t.Fatal(err)
	}
	return Files{Cert: base + ".crt", Key: base + ".key", CA: filepath.Join(dir, AuthorityCert)}
}

func open(t *testing.T, f Files) *Source {
	t.Helper()
	s, err := Open(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestIdentity(t *testing.T) {
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for _, tc := range []struct {
		uris string
		want string // "" is nobody
	}{
		{"spiffe://understudy/understudy/operator/alice", "operator alice"},
		{"spiffe://example.org/understudy/server/server1.rack-2", "server server1.rack-2"},
		{"https://example.org/x spiffe://d/understudy/viewer/w", "viewer w"},
		{"", ""},
		{"https://d/understudy/operator/alice", ""},
		{"spiffe://d/understudy/root/alice", ""},
		{"spiffe://d/understudy/operator/", ""},
		{"spiffe://d/understudy/operator/a/b", ""},
		{"spiffe://d/understudy/operator/alice?x", ""},
		{"spiffe://d/understudy/operator/a%0Ab", ""},
		{"spiffe://d/understudy/operator/" + strings.Repeat("x", 64), ""},
		{"spiffe://d/understudy/operator/alice spiffe://d/understudy/viewer/alice", ""},
	} {
		cert := &x509.Certificate{}
		for u := range strings.FieldsSeq(tc.uris) {
			cert.URIs = append(cert.URIs, parse(u))
		}
		got, err := Of(cert)
		if (err == nil) != (tc.want != "") || err == nil && got.String() != tc.want {
			t.Errorf("%s: %v, %v; want %q", tc.uris, got, err, tc.want)
		}
		if err == nil {
			again, err := Of(&x509.Certificate{URIs: []*url.URL{got.URI()}})
			if err != nil || again != got {
				t.Errorf("%v becomes %v, %v", got, again, err)
			}
		}
	}
}

func TestAuthority(t *testing.T) {
	a, dir := authority(t, time.Now)
	if _, err := CreateAuthority(dir, "again", time.Now); err == nil || !strings.Contains(err.Error(), "has an authority already") {
		t.Errorf("a second authority in the same folder: %v", err)
	}
	again, err := OpenAuthority(dir, time.Now)
	if err != nil || !again.Cert.Equal(a.Cert) {
		t.Fatalf("opened again: %v", err)
	}
	for _, name := range []string{AuthorityKey, "operator-alice.key"} {
		if name != AuthorityKey {
			issue(t, a, dir, Request{Identity: Identity{Operator, "alice"}})
		}
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	base := filepath.Join(dir, "x")
	for _, tc := range []struct {
		request Request
		want    string // "" is right
		life    time.Duration
	}{
		{Request{Identity: Identity{Operator, "alice"}}, "", PersonLife},
		{Request{Identity: Identity{Server, "a"}, Life: time.Hour}, "", time.Hour},
		{Request{Identity: Identity{Viewer, "a"}, Life: 2 * AuthorityLife}, "", AuthorityLife},
		{Request{Identity: Identity{Controller, "c"}, Hosts: []string{"localhost", "::1", "10.0.0.1"}}, "", ProgramLife},
		{Request{Identity: Identity{Controller, "c"}}, "give its host names", 0},
		{Request{Identity: Identity{Controller, "c"}, Hosts: []string{"a:9400"}}, "leave out its port", 0},
		{Request{Identity: Identity{Operator, "a"}, Hosts: []string{"a"}}, "only controllers are", 0},
		{Request{Identity: Identity{"root", "a"}}, "no kind of identity", 0},
		{Request{Identity: Identity{Operator, "a b"}}, "is not a name", 0},
		{Request{Identity: Identity{Operator, "a"}, Life: -1}, "cannot end before it begins", 0},
	} {
		cert, err := a.Issue(tc.request, base)
		if tc.want != "" {
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%+v: %v, want %q", tc.request, err, tc.want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%+v: %v", tc.request, err)
			continue
		}
		if id, err := Of(cert); err != nil || id != tc.request.Identity {
			t.Errorf("%+v: it says %v, %v", tc.request, id, err)
		}
		if end := time.Now().Add(tc.life); cert.NotAfter.After(end.Add(time.Minute)) || cert.NotAfter.Before(end.Add(-5*time.Minute)) {
			t.Errorf("%+v: it ends at %v", tc.request, cert.NotAfter)
		}
		if cert.IsCA || len(cert.IPAddresses)+len(cert.DNSNames) != len(tc.request.Hosts) {
			t.Errorf("%+v: %+v", tc.request, cert)
		}
	}
	if err := os.Rename(base+".key", filepath.Join(dir, AuthorityKey)); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAuthority(dir, time.Now); err == nil || !strings.Contains(err.Error(), "is not the key of") {
		t.Errorf("an authority with another key: %v", err)
	}
}

// health answers who asks.
type whoami struct {
	healthv1.UnimplementedHealthServer
	now func() time.Time
}

func (w whoami) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	p, _ := peer.FromContext(ctx)
	id, err := p.AuthInfo.(Peer).Identity(w.now())
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	return nil, status.Error(codes.AlreadyExists, id.String()) // the shortest way to send a text
}

// start serves whoami and returns its address.
func start(t *testing.T, s *Source, now func() time.Time) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(ServerCredentials(s)))
	healthv1.RegisterHealthServer(srv, whoami{now: now})
	go srv.Serve(l)
	t.Cleanup(srv.Stop)
	return l.Addr().String()
}

// ask returns what whoami says.
func ask(t *testing.T, address string, creds credentials.TransportCredentials) string {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	return status.Convert(err).Message()
}

func controllerRequest() Request {
	return Request{Identity: Identity{Controller, "c1"}, Hosts: []string{"127.0.0.1"}}
}

// Who may come in comes in, and everybody else is told why not.
func TestCredentials(t *testing.T) {
	ours, dir := authority(t, time.Now)
	foreign, elsewhere := authority(t, time.Now)
	late := &Authority{Cert: ours.Cert, key: ours.key, now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}
	address := start(t, open(t, issue(t, ours, dir, controllerRequest())), time.Now)
	trustOurs := func(f Files) Files { f.CA = filepath.Join(dir, AuthorityCert); return f }
	for _, tc := range []struct {
		name  string
		files Files
		want  string
	}{
		{"operator", issue(t, ours, dir, Request{Identity: Identity{Operator, "alice"}}), "operator alice"},
		{"server", issue(t, ours, dir, Request{Identity: Identity{Server, "server1"}}), "server server1"},
		{"expired", issue(t, late, dir, Request{Identity: Identity{Operator, "bob"}, Life: time.Hour}), "not valid now: that of operator bob is good from"},
		{"of another authority", trustOurs(issue(t, foreign, elsewhere, Request{Identity: Identity{Operator, "eve"}})), "not from an authority that is trusted here: that of operator eve"},
	} {
		if got := ask(t, address, ClientCredentials(open(t, tc.files), Controller)); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	roots := x509.NewCertPool()
	roots.AddCert(ours.Cert)
	if got := ask(t, address, credentials.NewClientTLSFromCert(roots, "")); !strings.Contains(got, "no client certificate; give one") {
		t.Errorf("without a certificate: %q", got)
	}
}

// A certificate is looked at in each call, not only when the connection begins.
func TestItExpiresWhileConnected(t *testing.T) {
	a, dir := authority(t, time.Now)
	later := time.Now()
	address := start(t, open(t, issue(t, a, dir, controllerRequest())), func() time.Time { return later })
	alice := open(t, issue(t, a, dir, Request{Identity: Identity{Operator, "alice"}, Life: time.Hour}))
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(ClientCredentials(alice, Controller)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, want := range []codes.Code{codes.AlreadyExists, codes.Unauthenticated} {
		_, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		if status.Code(err) != want {
			t.Errorf("at %v: %v, want %v", later, err, want)
		}
		later = later.Add(2 * time.Hour)
	}
}

// A client speaks to the controller that it has dialled, and to nobody else.
func TestClientKnowsItsServer(t *testing.T) {
	a, dir := authority(t, time.Now)
	foreign, elsewhere := authority(t, time.Now)
	alice := open(t, issue(t, a, dir, Request{Identity: Identity{Operator, "alice"}}))
	stolen := issue(t, foreign, elsewhere, controllerRequest())
	other := issue(t, a, dir, Request{Identity: Identity{Controller, "c2"}, Hosts: []string{"192.0.2.1"}})
	agent := issue(t, a, dir, Request{Identity: Identity{Server, "server1"}})
	for _, tc := range []struct {
		name  string
		files Files
		want  string
	}{
		{"another authority", stolen, "unknown authority"},
		{"another address", other, "not 127.0.0.1"},
		{"an agent", agent, "doesn't contain any IP SANs"},
	} {
		address := start(t, open(t, tc.files), time.Now)
		if got := ask(t, address, ClientCredentials(alice, Controller)); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
	address := start(t, open(t, issue(t, a, dir, controllerRequest())), time.Now)
	if got := ask(t, address, ClientCredentials(alice, Server)); !strings.Contains(got, "controller c1 answers, not a server") {
		t.Errorf("a controller in place of a server: %q", got)
	}
}

// Renewed files are taken up, broken ones are not.
func TestReload(t *testing.T) {
	a, dir := authority(t, time.Now)
	files := issue(t, a, dir, controllerRequest())
	s := open(t, files)
	first := s.NotAfter()

	r := controllerRequest()
	r.Life = time.Hour
	issue(t, a, dir, r)
	renewed := s.NotAfter()
	if !renewed.Before(first) {
		t.Errorf("it ends at %v, as before it was renewed", renewed)
	}
	// A key that does not belong to it, as between two renames.
	other := issue(t, a, dir, Request{Identity: Identity{Server, "a"}})
	if err := os.Rename(other.Key, files.Key); err != nil {
		t.Fatal(err)
	}
	if got := s.NotAfter(); !got.Equal(renewed) {
		t.Errorf("half a change: it ends at %v, want %v", got, renewed)
	}
	if _, err := Open(files, nil); err == nil || !strings.Contains(err.Error(), "the key that belongs to it") {
		t.Errorf("it is opened: %v", err)
	}
	issue(t, a, dir, controllerRequest())
	if got := s.NotAfter(); !got.After(renewed) {
		t.Errorf("mended, it ends at %v", got)
	}
	// Whom the authority no longer vouches for is out.
	alice := open(t, issue(t, a, dir, Request{Identity: Identity{Operator, "alice"}}))
	address := start(t, s, time.Now)
	if got := ask(t, address, ClientCredentials(alice, Controller)); got != "operator alice" {
		t.Errorf("before: %q", got)
	}
	_, elsewhere := authority(t, time.Now)
	text, err := os.ReadFile(filepath.Join(elsewhere, AuthorityCert))
	if err != nil {
		t.Fatal(err)
	}
	keep := filepath.Join(dir, "old.crt")
	if err := os.Rename(files.CA, keep); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files.CA, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	alice.files.CA = keep
	if got := ask(t, address, ClientCredentials(alice, Controller)); !strings.Contains(got, ErrUntrusted.Error()) {
		t.Errorf("after: %q", got)
	}
}

func TestMissingFiles(t *testing.T) {
	a, dir := authority(t, time.Now)
	good := issue(t, a, dir, Request{Identity: Identity{Operator, "alice"}})
	for want, f := range map[string]Files{
		"certificate: open": {"nowhere", good.Key, good.CA},
		"key: open":         {good.Cert, "nowhere", good.CA},
		"authority: open":   {good.Cert, good.Key, "nowhere"},
		"no certificate":    {good.Cert, good.Key, good.Key},
		"and the key that":  {good.Key, good.Key, good.CA},
	} {
		if _, err := Open(f, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", f, err, want)
		}
	}
	if _, err := OpenAuthority(t.TempDir(), time.Now); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "understudy certs init") {
		t.Errorf("no authority: %v", err)
	}
}
