// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
	"github.com/understudy-net/understudy/internal/pki"
)

// reception is a controller that notes who comes, and has nothing to say.
type reception struct {
	agentv1.UnimplementedAgentControlServer
	came chan string
}

func (r *reception) Session(s agentv1.AgentControl_SessionServer) error {
	p, _ := peer.FromContext(s.Context())
	who := "anyone"
	if p, ok := p.AuthInfo.(pki.Peer); ok {
		id, err := p.Identity(time.Now())
		if err != nil {
			return err
		}
		who = id.String()
	}
	select {
	case r.came <- who:
	case <-s.Context().Done():
	}
	<-s.Context().Done()
	return nil
}

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lines) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.b.String(), text)
}

// certificates of an authority of their own.
func certificates(t *testing.T) (controller, server *pki.Source) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	a, err := pki.CreateAuthority(dir, "test", time.Now)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(kind pki.Kind, name string, hosts ...string) *pki.Source {
		base := filepath.Join(dir, name)
		if _, err := a.Issue(pki.Request{Identity: pki.Identity{Kind: kind, Name: name}, Hosts: hosts}, base); err != nil {
			t.Fatal(err)
		}
		s, err := pki.Open(pki.Files{Cert: base + ".crt", Key: base + ".key", CA: filepath.Join(dir, pki.AuthorityCert)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	return issue(pki.Controller, "c1", "127.0.0.1"), issue(pki.Server, "server1")
}

// An agent shows its certificate, and speaks to no controller but its own.
func TestSessionOverTLS(t *testing.T) {
	controller, server := certificates(t)
	foreign, _ := certificates(t)
	for _, tc := range []struct {
		name       string
		controller *pki.Source // nil: ours, and an agent without certificates
		want       string      // who comes; or, with a blank in front, what is logged
	}{
		{"ours", controller, "server server1"},
		{"another authority", foreign, " certificate signed by unknown authority"},
		{"in the clear", nil, " give both sides tls, or neither"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			r := &reception{came: make(chan string)}
			var log lines
			creds := insecure.NewCredentials()
			if tc.controller != nil {
				creds = pki.ClientCredentials(server, pki.Controller)
			} else {
				tc.controller = controller
			}
			srv := grpc.NewServer(grpc.Creds(pki.ServerCredentials(tc.controller)))
			agentv1.RegisterAgentControlServer(srv, r)
			go srv.Serve(l)
			t.Cleanup(srv.Stop)
			a := New(Config{Server: "server1", Controller: l.Addr().String(), Log: slog.New(slog.NewTextHandler(&log, nil)),
				Credentials: creds})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- a.keepSession(ctx) }()
			for end := time.Now().Add(20 * time.Second); ; {
				select {
				case <-a.events: // its loop does not run
					continue
				case who := <-r.came:
					if who != tc.want {
						t.Errorf("%s comes, want %s", who, tc.want)
					}
				case <-time.After(5 * time.Millisecond):
					if (tc.want[0] != ' ' || !log.has(tc.want)) && time.Now().Before(end) {
						continue
					}
					if !log.has(tc.want) {
						t.Errorf("no %q in the log:\n%s", tc.want, log.b.String())
					}
				}
				break
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}
