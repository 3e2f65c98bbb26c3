// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	replicationv1 "github.com/understudy-net/understudy/api/replication/v1"
	"github.com/understudy-net/understudy/internal/pki"
)

func hello(change func(*replicationv1.Hello)) *replicationv1.Hello {
	h := &replicationv1.Hello{Version: Version, Pair: "web", Epoch: 7, Server: "server1"}
	if change != nil {
		change(h)
	}
	return h
}

// connect makes both ends of a stream.
func connect(t *testing.T, ours, theirs *replicationv1.Hello) (active, backup *Stream, activeErr, backupErr error) {
	t.Helper()
	return connectAs(t, nil, nil, ours, theirs)
}

// identity is what agents make of their certificates.
func identity(s *pki.Source) *Identity {
	if s == nil {
		return nil
	}
	return &Identity{Config: func() *tls.Config { return pki.PeerConfig(s, pki.Server) }, PeerName: pki.PeerName}
}

// connectAs is connect with identities.
func connectAs(t *testing.T, ourID, theirID *pki.Source, ours, theirs *replicationv1.Hello) (active, backup *Stream, activeErr, backupErr error) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type result struct {
		s   *Stream
		err error
	}
	accepted := make(chan result, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			accepted <- result{nil, err}
			return
		}
		s, err := Accept(c, identity(ourID), func(*replicationv1.Hello) (*replicationv1.Hello, error) {
			if ours == nil {
				return nil, errors.New("no")
			}
			return ours, nil
		})
		accepted <- result{s, err}
	}()
	backup, backupErr = Dial(context.Background(), l.Addr().String(), identity(theirID), theirs)
	r := <-accepted
	t.Cleanup(func() {
		for _, s := range []*Stream{r.s, backup} {
			if s != nil {
				s.Close()
			}
		}
	})
	return r.s, backup, r.err, backupErr
}

func TestHello(t *testing.T) {
	for name, c := range map[string]struct {
		ours, theirs *replicationv1.Hello
		want         string // in the active side's error; "" for none
	}{
		"agree":   {hello(nil), hello(func(h *replicationv1.Hello) { h.Server = "server2" }), ""},
		"version": {hello(nil), hello(func(h *replicationv1.Hello) { h.Version = 9 }), "speaks version 9"},
		"pair":    {hello(nil), hello(func(h *replicationv1.Hello) { h.Pair = "mail" }), `belongs to pair "mail"`},
		"epoch":   {hello(nil), hello(func(h *replicationv1.Hello) { h.Epoch = 6 }), "is in epoch 6"},
		"refused": {nil, hello(nil), "no"},
	} {
		t.Run(name, func(t *testing.T) {
			active, backup, activeErr, backupErr := connect(t, c.ours, c.theirs)
			if c.want == "" {
				if activeErr != nil || backupErr != nil {
					t.Fatal(activeErr, backupErr)
				}
				if active.Peer().GetServer() != "server2" || backup.Peer().GetServer() != "server1" {
					t.Errorf("peers %v, %v", active.Peer(), backup.Peer())
				}
				return
			}
			if activeErr == nil || !strings.Contains(activeErr.Error(), c.want) {
				t.Errorf("error %v, want %q in it", activeErr, c.want)
			}
			if backupErr == nil {
				t.Error("the backup was not refused")
			}
		})
	}
}

// Only the server that a hello names comes in, and only to one of the same authority.
func TestMutualTLS(t *testing.T) {
	authority := func() func(kind pki.Kind, name string) *pki.Source {
		dir := t.TempDir()
		a, err := pki.CreateAuthority(dir, "test", time.Now)
		if err != nil {
			t.Fatal(err)
		}
		return func(kind pki.Kind, name string) *pki.Source {
			base := filepath.Join(dir, name)
			if _, err := a.Issue(pki.Request{Identity: pki.Identity{Kind: kind, Name: name}}, base); err != nil {
				t.Fatal(err)
			}
			s, err := pki.Open(pki.Files{Cert: base + ".crt", Key: base + ".key", CA: filepath.Join(dir, pki.AuthorityCert)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	ours, foreign := authority(), authority()
	one, two := ours(pki.Server, "server1"), ours(pki.Server, "server2")
	h1 := hello(nil)
	h2 := hello(func(h *replicationv1.Hello) { h.Server = "server2" })
	for name, c := range map[string]struct {
		active, backup *pki.Source
		theirs         *replicationv1.Hello
		want           string // in one side's error; "" for none
	}{
		"agree":                  {one, two, h2, ""},
		"another server's":       {one, ours(pki.Server, "server3"), h2, `has the certificate of "server3"`},
		"the active one another": {ours(pki.Server, "server4"), two, h2, `has the certificate of "server4"`},
		"an operator's":          {one, ours(pki.Operator, "alice"), h2, "not a server"},
		"another authority's":    {one, foreign(pki.Server, "server2"), h2, "unknown authority"},
		"plain to TLS":           {one, nil, h2, "both agents need tls"},
		"TLS to plain":           {nil, two, h2, "both agents need tls"},
	} {
		t.Run(name, func(t *testing.T) {
			active, backup, activeErr, backupErr := connectAs(t, c.active, c.backup, h1, c.theirs)
			if err := errors.Join(activeErr, backupErr); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if c.want != "" {
				if backup != nil && backupErr == nil && activeErr == nil {
					t.Error("connected")
				}
				return
			}
			got := make(chan uint64, 1)
			go backup.Run(t.Context(), func(f *replicationv1.Frame) { got <- f.GetReply().GetRequest() })
			go active.Run(t.Context(), func(*replicationv1.Frame) {})
			active.Send(&replicationv1.Frame{Frame: &replicationv1.Frame_Reply{Reply: &replicationv1.Reply{Request: 5, Data: make([]byte, 100000)}}})
			select {
			case n := <-got:
				if n != 5 {
					t.Errorf("request %d", n)
				}
			case <-time.After(10 * time.Second):
				t.Error("nothing arrives")
			}
		})
	}
}

func TestFramesArriveInOrder(t *testing.T) {
	active, backup, err, err2 := connect(t, hello(nil), hello(nil))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	const n = 2000
	got := make(chan *replicationv1.Reply, n)
	ended := make(chan error, 2)
	go func() {
		ended <- backup.Run(context.Background(), func(f *replicationv1.Frame) { got <- f.GetReply() })
	}()
	go func() { ended <- active.Run(context.Background(), func(*replicationv1.Frame) {}) }()
	data := bytes.Repeat([]byte("x"), 20000) // 40 MB in all: Send has to wait
	for i := range n {
		if err := active.Send(&replicationv1.Frame{Frame: &replicationv1.Frame_Reply{
			Reply: &replicationv1.Reply{Request: uint64(i), Data: data}}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range n {
		select {
		case r := <-got:
			if r.GetRequest() != uint64(i) || !bytes.Equal(r.GetData(), data) {
				t.Fatalf("frame %d is %d", i, r.GetRequest())
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("frame %d never came", i)
		}
	}
	active.Close()
	if err := <-ended; err != nil && !strings.Contains(err.Error(), "EOF") {
		t.Error(err)
	}
	<-ended
	if err := active.Send(&replicationv1.Frame{}); !errors.Is(err, ErrClosed) {
		t.Errorf("Send after Close: %v", err)
	}
}

// A peer that takes nothing makes Send wait; Close wakes it.
func TestCloseWakesSend(t *testing.T) {
	active, _, err, err2 := connect(t, hello(nil), hello(nil))
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	done := make(chan error, 1)
	go active.Run(context.Background(), func(*replicationv1.Frame) {})
	go func() {
		f := &replicationv1.Frame{Frame: &replicationv1.Frame_Reply{Reply: &replicationv1.Reply{Data: make([]byte, 1<<20)}}}
		for {
			if err := active.Send(f); err != nil {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		t.Fatalf("Send does not wait: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	active.Close()
	select {
	case err := <-done:
		if !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Close does not wake Send")
	}
}

func FuzzFrame(f *testing.F) {
	var b bytes.Buffer
	protodelim.MarshalTo(&b, &replicationv1.Frame{Frame: &replicationv1.Frame_Hello{Hello: hello(nil)}})
	f.Add(b.Bytes())
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, in []byte) {
		c, s := net.Pipe()
		defer c.Close()
		go func() { c.SetDeadline(time.Now().Add(time.Second)); c.Write(in); c.Close() }()
		st := newStream(s)
		defer s.Close()
		for range 100 {
			if err := st.read(new(replicationv1.Frame)); err != nil {
				return
			}
		}
	})
}
