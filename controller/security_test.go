// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/internal/pki"
)

// identities issues certificates for a test.
type identities struct {
	t         *testing.T
	dir       string
	authority *pki.Authority
}

func newIdentities(t *testing.T) *identities {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := pki.CreateAuthority(dir, "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &identities{t, dir, a}
}

func (i *identities) issue(kind pki.Kind, name string, hosts ...string) pki.Files {
	i.t.Helper()
	base := filepath.Join(i.dir, name)
	if _, err := i.authority.Issue(pki.Request{Identity: pki.Identity{Kind: kind, Name: name}, Hosts: hosts}, base); err != nil {
		i.t.Fatal(err)
	}
	return pki.Files{Cert: base + ".crt", Key: base + ".key", CA: filepath.Join(i.dir, pki.AuthorityCert)}
}

func (i *identities) as(kind pki.Kind, name string) credentials.TransportCredentials {
	i.t.Helper()
	s, err := pki.Open(i.issue(kind, name), nil)
	if err != nil {
		i.t.Fatal(err)
	}
	return pki.ClientCredentials(s, pki.Controller)
}

func connectWith(t *testing.T, address string, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A controller with tls knows its operators and its agents by their certificates, and
// no server has two agents.
func TestWhoComesIn(t *testing.T) {
	l := newLab(t, "")
	ids := newIdentities(t)
	cfg := testConfig(t, l.address)
	own := config.TLS(ids.issue(pki.Controller, "c1", "127.0.0.1"))
	cfg.TLS, cfg.Listen.Insecure = &own, false
	r := start(t, cfg)

	admins := adminv1.NewAdminClient(connectWith(t, r.AdminAddr().String(), ids.as(pki.Operator, "alice")))
	if _, err := admins.ListPairs(t.Context(), &adminv1.ListPairsRequest{}); err != nil {
		t.Errorf("an operator: %v", err)
	}
	if _, err := admins.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an operator: %v", err)
	}
	viewers := adminv1.NewAdminClient(connectWith(t, r.AdminAddr().String(), ids.as(pki.Viewer, "wall")))
	if _, err := viewers.SwitchOver(t.Context(), &adminv1.SwitchOverRequest{Pair: "web"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a viewer: %v", err)
	}
	account, err := os.ReadFile(cfg.AuditLog)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"who":"operator alice"`, `"result":"FailedPrecondition"`, `"who":"viewer wall"`, `"result":"PermissionDenied"`} {
		if !strings.Contains(string(account), want) {
			t.Errorf("no %s in the audit log:\n%s", want, account)
		}
	}

	// session opens one and returns it when the first assignment is there.
	session := func(conn *grpc.ClientConn, server string, instance uint64) (agentv1.AgentControl_SessionClient, error) {
		stream, err := agentv1.NewAgentControlClient(conn).Session(t.Context())
		if err != nil {
			return nil, err
		}
		// Send fails with io.EOF if the stream is over; Recv says why.
		stream.Send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Hello{Hello: &agentv1.Hello{Server: server, Instance: instance,
			Health: &agentv1.Health{ApplicationUp: true}}}})
		_, err = stream.Recv()
		return stream, err
	}
	agents := r.AgentAddr().String()
	server1 := connectWith(t, agents, ids.as(pki.Server, "server1"))
	for _, tc := range []struct {
		name   string
		conn   *grpc.ClientConn
		server string
		want   codes.Code
		text   string
	}{
		{"another server", server1, "server2", codes.PermissionDenied, "the certificate is that of server server1, not of server server2"},
		{"an operator", connectWith(t, agents, ids.as(pki.Operator, "server2")), "server2", codes.PermissionDenied, "that of operator server2"},
		{"in the clear", connectWith(t, agents, insecure.NewCredentials()), "server1", codes.Unavailable, ""},
	} {
		if _, err := session(tc.conn, tc.server, 1); status.Code(err) != tc.want || !strings.Contains(status.Convert(err).Message(), tc.text) {
			t.Errorf("%s: %v, want %v with %q", tc.name, err, tc.want, tc.text)
		}
	}
	stream, err := session(server1, "server1", 1)
	if err != nil {
		t.Fatalf("an agent: %v", err)
	}
	// While it is heard, there is no other one; the same process may come again.
	if err := stream.Send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Alive{Alive: &agentv1.Alive{}}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a second agent is refused", func() error {
		stream.Send(&agentv1.AgentMessage{Message: &agentv1.AgentMessage_Alive{Alive: &agentv1.Alive{}}})
		_, err := session(server1, "server1", 2)
		if status.Code(err) != codes.AlreadyExists {
			return fmt.Errorf("it got %v", err)
		}
		return nil
	})
	if _, err := session(server1, "server1", 1); err != nil {
		t.Errorf("the same process again: %v", err)
	}
}
