// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"io"
	"math"
	"strings"
	"time"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

// upgradable reports whether a request to switch protocols is passed on. HTTP/2 is not
// tunnelled: requests in it would go past everything that is checked here.
func upgradable(req *http1.Request) bool {
	return req.Upgrade != "" && req.Length == 0 && !strings.EqualFold(req.Upgrade, "h2c")
}

// tunnel carries bytes both ways after the application has switched protocols
// (WebSocket), until either side closes. What the application says is logged like a
// reply that is shown in pieces, so that the connection can be closed in order on
// whichever server; what the client says is not kept.
func (c *conn) tunnel(resp *reply, req *http1.Request) error {
	head, _, _ := replyHead(resp.Response, req, true, time.Now())
	r := c.newCopier(resp, head, http1.UntilClose)
	if err := r.start(); err != nil {
		return err
	}
	c.mu.Lock()
	up := &requestBody{c: c, start: c.in.pos, remain: math.MaxInt64, tunnel: true}
	c.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := io.Copy(resp.body.c.Conn, up)
		if half, ok := resp.body.c.Conn.(interface{ CloseWrite() error }); ok && err == nil {
			half.CloseWrite() // the client has said all
		} else {
			resp.body.c.Close()
		}
	}()
	last, _ := r.run() // however it ends, the tunnel has
	resp.body.Close()
	c.complete(last, r.span, false, up, true)
	<-done
	return nil
}
