// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
)

const deadline = 20 * time.Second

// scribe is a Handler that writes down what it is told.
type scribe struct {
	mu       sync.Mutex
	sessions []*Session
	lines    chan string
}

func (s *scribe) Attached(x *Session, h *agentv1.Hello) error {
	if h.GetServer() == "stranger" {
		return status.Error(codes.NotFound, "no such server")
	}
	s.mu.Lock()
	s.sessions = append(s.sessions, x)
	s.mu.Unlock()
	s.lines <- fmt.Sprintf("attached %d %s", x.ID, h.GetServer())
	return nil
}

func (s *scribe) Message(x *Session, m *agentv1.AgentMessage) {
	text := fmt.Sprintf("%d: %T", x.ID, m.GetMessage())
	if a := m.GetApplied(); a != nil {
		text += fmt.Sprintf(" released %t", x.Answers(a))
	}
	s.lines <- text
}

func (s *scribe) Detached(x *Session, how End) {
	s.lines <- fmt.Sprintf("detached %d %v", x.ID, map[End]string{Closed: "closed", TimedOut: "timed out"}[how])
}

func (s *scribe) next(t *testing.T) string {
	t.Helper()
	select {
	case l := <-s.lines:
		return l
	case <-time.After(deadline):
		t.Fatal("nothing happened")
		return ""
	}
}

func (s *scribe) session(i int) *Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[i]
}

func serve(t *testing.T, wrap func(net.Listener) net.Listener, adjust ...func(*AgentServer)) (*scribe, string) {
	t.Helper()
	s := &scribe{lines: make(chan string, 1000)}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if wrap != nil {
		l = wrap(l)
	}
	server := NewAgentServer(s, insecure.NewCredentials(), nil)
	for _, f := range adjust {
		f(server)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, address
}

type testAgent struct {
	conn   *grpc.ClientConn
	tcp    *net.TCPConn
	stream agentv1.AgentControl_SessionClient
	cancel context.CancelFunc
}

func connect(t *testing.T, address string) *testAgent {
	t.Helper()
	a := &testAgent{}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err == nil && a.tcp == nil {
				a.tcp = c.(*net.TCPConn)
			}
			return c, err
		}))
	if err != nil {
		t.Fatal(err)
	}
	a.conn = conn
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	a.cancel = cancel
	if a.stream, err = agentv1.NewAgentControlClient(conn).Session(ctx); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *testAgent) send(t *testing.T, m *agentv1.AgentMessage) {
	t.Helper()
	if err := a.stream.Send(m); err != nil {
		t.Fatal(err)
	}
}

func hello(server string) *agentv1.AgentMessage {
	return &agentv1.AgentMessage{Message: &agentv1.AgentMessage_Hello{Hello: &agentv1.Hello{Server: server, Instance: 1}}}
}

func applied(epoch uint64, role agentv1.Role) *agentv1.AgentMessage {
	return &agentv1.AgentMessage{Message: &agentv1.AgentMessage_Applied{Applied: &agentv1.Applied{Epoch: epoch, Role: role}}}
}

func TestSession(t *testing.T) {
	s, address := serve(t, nil)
	a := connect(t, address)
	a.send(t, hello("server1"))
	if got := s.next(t); got != "attached 1 server1" {
		t.Fatal(got)
	}
	want := []*agentv1.Assignment{
		{Epoch: 3, Role: agentv1.Role_ROLE_ACTIVE},
		{Epoch: 3, Role: agentv1.Role_ROLE_ACTIVE, Released: true},
		{Epoch: 4, Role: agentv1.Role_ROLE_FENCED},
	}
	for _, as := range want {
		s.session(0).Assign(proto.Clone(as).(*agentv1.Assignment))
	}
	for i, as := range want {
		m, err := a.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(as, m.GetAssignment()) {
			t.Errorf("assignment %d is %v, want %v", i, m.GetAssignment(), as)
		}
	}
	// Answers are told apart by their order.
	a.send(t, applied(3, agentv1.Role_ROLE_ACTIVE))
	a.send(t, applied(3, agentv1.Role_ROLE_ACTIVE))
	a.send(t, applied(3, agentv1.Role_ROLE_ACTIVE))
	a.send(t, &agentv1.AgentMessage{Message: &agentv1.AgentMessage_Replication{Replication: &agentv1.Replication{Up: true}}})
	got := []string{s.next(t), s.next(t), s.next(t), s.next(t)}
	if diff := cmp.Diff([]string{
		"1: *agentv1.AgentMessage_Applied released false",
		"1: *agentv1.AgentMessage_Applied released true",
		"1: *agentv1.AgentMessage_Applied released false",
		"1: *agentv1.AgentMessage_Replication",
	}, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
	a.conn.Close()
	if got := s.next(t); got != "detached 1 closed" {
		t.Error(got)
	}
}

// However a session ends, it is clear whether somebody ended it.
func TestEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(*testing.T, *testAgent)
		want string
	}{
		{"the agent hangs up", func(_ *testing.T, a *testAgent) { a.conn.Close() }, "detached 1 closed"},
		{"the agent ends the call", func(_ *testing.T, a *testAgent) { a.cancel() }, "detached 1 closed"},
		{"the agent has nothing more to say", func(t *testing.T, a *testAgent) {
			if err := a.stream.CloseSend(); err != nil {
				t.Fatal(err)
			}
		}, "detached 1 closed"},
		{"its kernel sends FIN", func(_ *testing.T, a *testAgent) { a.tcp.Close() }, "detached 1 closed"},
		{"its kernel sends RST", func(t *testing.T, a *testAgent) {
			if err := a.tcp.SetLinger(0); err != nil {
				t.Fatal(err)
			}
			a.tcp.Close()
		}, "detached 1 closed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, address := serve(t, nil)
			a := connect(t, address)
			a.send(t, hello("server1"))
			s.next(t)
			tt.end(t, a)
			if got := s.next(t); got != tt.want {
				t.Errorf("%s, want %s", got, tt.want)
			}
		})
	}
}

// deafListener hands out its one connection, and has it fail as a kernel does
// that gives up.
type deafListener struct {
	net.Listener
	conns chan *deafConn
}

type deafConn struct {
	net.Conn
	err    atomic.Pointer[error]
	writes atomic.Int64
}

func (d *deafConn) Write(b []byte) (int, error) {
	d.writes.Add(1)
	return d.Conn.Write(b)
}

func (l deafListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	d := &deafConn{Conn: c}
	l.conns <- d
	return d, nil
}

func (d *deafConn) Read(b []byte) (int, error) {
	n, err := d.Conn.Read(b)
	if fail := d.err.Load(); err != nil && fail != nil {
		return n, *fail
	}
	return n, err
}

func (d *deafConn) fail(err error) {
	d.err.Store(&err)
	d.Conn.SetReadDeadline(time.Unix(1, 0))
}

func TestTimesOut(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
	}{
		{"the kernel gives up", &net.OpError{Op: "read", Err: syscall.ETIMEDOUT}},
		{"no route", &net.OpError{Op: "read", Err: syscall.EHOSTUNREACH}},
		{"closed because nothing was heard", net.ErrClosed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conns := make(chan *deafConn, 1)
			s, address := serve(t, func(l net.Listener) net.Listener { return deafListener{l, conns} })
			a := connect(t, address)
			a.send(t, hello("server1"))
			s.next(t)
			(<-conns).fail(tt.err)
			if got := s.next(t); got != "detached 1 timed out" {
				t.Error(got)
			}
		})
	}
}

// readerScribe notes who tells it of a session's end.
type readerScribe struct {
	*scribe
	stack chan string
}

func (r readerScribe) Detached(x *Session, how End) {
	r.stack <- string(debug.Stack())
	r.scribe.Detached(x, how)
}

// A dead connection is told by the goroutine that reads it: nobody else has to
// wake up first. Once.
func TestEndIsToldAtOnce(t *testing.T) {
	r := readerScribe{stack: make(chan string, 10)}
	s, address := serve(t, nil, func(s *AgentServer) {
		r.scribe = s.handler.(*scribe)
		s.handler = r
	})
	a := connect(t, address)
	a.send(t, hello("server1"))
	s.next(t)
	a.tcp.Close()
	if got := s.next(t); got != "detached 1 closed" {
		t.Error(got)
	}
	if stack := <-r.stack; !strings.Contains(stack, "(*conn).Read") {
		t.Errorf("told by\n%s", stack)
	}
	// The next session shows that nothing else came.
	b := connect(t, address)
	b.send(t, hello("server1"))
	if got := s.next(t); got != "attached 2 server1" {
		t.Error(got)
	}
}

// Signs of life are taken without an answer of any kind: there are hundreds of
// them per second.
func TestAliveIsNotAnswered(t *testing.T) {
	conns := make(chan *deafConn, 1)
	s, address := serve(t, func(l net.Listener) net.Listener { return deafListener{l, conns} })
	a := connect(t, address)
	a.send(t, hello("server1"))
	s.next(t)
	conn := <-conns
	before := conn.writes.Load()
	const n = 50
	for range n {
		a.send(t, &agentv1.AgentMessage{Message: &agentv1.AgentMessage_Alive{Alive: &agentv1.Alive{}}})
		s.next(t)
	}
	if w := conn.writes.Load() - before; w > n/10 {
		t.Errorf("%d writes for %d signs of life", w, n)
	}
}

func TestNoHello(t *testing.T) {
	s, address := serve(t, nil, func(s *AgentServer) { s.helloTimeout = 20 * time.Millisecond })
	for _, tt := range []struct {
		name  string
		first *agentv1.AgentMessage
		want  codes.Code
	}{
		{"silence", nil, codes.DeadlineExceeded},
		{"something else", applied(1, 1), codes.InvalidArgument},
		{"a server that is not known", hello("stranger"), codes.NotFound},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := connect(t, address)
			if tt.first != nil {
				a.send(t, tt.first)
			}
			if _, err := a.stream.Recv(); status.Code(err) != tt.want {
				t.Errorf("error %v, want %v", err, tt.want)
			}
		})
	}
	select {
	case l := <-s.lines:
		t.Errorf("the handler was told: %s", l)
	default:
	}
}

// An agent that does not read gets the latest assignments, and holds nobody up.
func TestAgentDoesNotRead(t *testing.T) {
	s, address := serve(t, nil)
	a := connect(t, address)
	a.send(t, hello("server1"))
	s.next(t)
	const last = 5000
	secret := []byte(strings.Repeat("x", 1000))
	for i := range last {
		s.session(0).Assign(&agentv1.Assignment{Epoch: uint64(i + 1), IsnSecret: secret})
	}
	var before uint64
	for before != last {
		m, err := a.stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := m.GetAssignment().GetEpoch(); e <= before {
			t.Fatalf("epoch %d came after %d", e, before)
		} else {
			before = e
		}
	}
}
