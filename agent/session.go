// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	agentv1 "github.com/understudy-net/understudy/api/agent/v1"
)

// session is one stream to the controller. Messages wait in out while the
// network takes them; when it is full the session has lost touch, and is ended.
type session struct {
	out    chan *agentv1.AgentMessage
	cancel context.CancelFunc
}

func (s *session) send(m *agentv1.AgentMessage) {
	select {
	case s.out <- m:
	default:
		s.cancel()
	}
}

const (
	sessionQueue  = 256
	sessionWindow = 1 << 16 // bytes that the controller may send before they are read
	redialMin     = 20 * time.Millisecond
	redialMax     = 300 * time.Millisecond
)

// keepSession opens a session, and another one when it ends, until ctx ends. Of several
// controllers only the one in charge keeps a session: the others refuse it, and the next
// one is tried.
func (a *Agent) keepSession(ctx context.Context) error {
	creds := a.cfg.Credentials
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	var controllers []*grpc.ClientConn
	for address := range strings.SplitSeq(a.cfg.Controller, ",") {
		cc, err := grpc.NewClient(strings.TrimSpace(address),
			grpc.WithTransportCredentials(creds),
			grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}),
			// Windows of its own choice let gRPC measure the path, with a ping for nearly
			// every message.
			grpc.WithStaticStreamWindowSize(sessionWindow),
			grpc.WithStaticConnWindowSize(sessionWindow))
		if err != nil {
			return fmt.Errorf("controller %q: %w", address, err)
		}
		defer cc.Close()
		controllers = append(controllers, cc)
	}
	wait := redialMin
	refused := map[string]string{} // why, the last time
	for i := 0; ctx.Err() == nil; i++ {
		cc := controllers[i%len(controllers)]
		began := time.Now()
		err := a.runSession(ctx, agentv1.NewAgentControlClient(cc))
		if ctx.Err() != nil {
			break
		}
		if time.Since(began) > redialMax {
			wait = redialMin
		}
		if text := refusal(err); text != refused[cc.Target()] {
			refused[cc.Target()] = text
			if text != "" {
				a.log.Error("the controller refuses this agent", "controller", cc.Target(), "reason", text)
			}
		}
		a.log.Debug("session", "controller", cc.Target(), "error", err, "again in", wait)
		cc.ResetConnectBackoff()
		if i%len(controllers) < len(controllers)-1 {
			continue // the next one may be in charge
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, redialMax)
	}
	return nil
}

// refusal is what the controller, or this side, says against a session that will not
// be better the next time; else it is empty.
func refusal(err error) string {
	st := status.Convert(err)
	switch st.Code() {
	case codes.Unauthenticated, codes.PermissionDenied, codes.NotFound, codes.AlreadyExists, codes.InvalidArgument:
		return st.Message()
	case codes.Unavailable:
		if strings.Contains(st.Message(), "authentication handshake failed") {
			return st.Message()
		}
		if strings.Contains(st.Message(), "error reading server preface") {
			return st.Message() + "; give both sides tls, or neither"
		}
	}
	return ""
}

func (a *Agent) runSession(ctx context.Context, client agentv1.AgentControlClient) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.Session(ctx)
	if err != nil {
		return err
	}
	s := &session{out: make(chan *agentv1.AgentMessage, sessionQueue), cancel: cancel}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for {
			select {
			case <-ctx.Done():
				return
			case m := <-s.out:
				if err := stream.Send(m); err != nil {
					cancel()
					return
				}
			}
		}
	}()
	defer func() { cancel(); <-sent }()
	if !a.post(ctx, sessionUp{s}) {
		return ctx.Err()
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			a.post(ctx, sessionDown{s, err})
			return err
		}
		if n := m.GetAssignment(); n != nil {
			a.post(ctx, assigned{n})
		}
	}
}
