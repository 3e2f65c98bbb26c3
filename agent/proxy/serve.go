// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"github.com/understudy-net/understudy/agent/proxy/http1"
)

// serve answers one request after the other, on the active server, for as long as
// there are any.
func (c *conn) serve() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	c.mu.Lock()
	c.cancel = cancel
	c.mu.Unlock()
	for {
		req, err := c.nextRequest()
		switch {
		case err != nil:
			c.refuse(err)
			c.finish()
			return
		case req == nil:
			return
		case !c.answer(ctx, req):
			c.finish()
			return
		}
	}
}

// answer runs one request on the local application and logs its reply. It reports
// whether the connection can carry another request.
func (c *conn) answer(ctx context.Context, req *http1.Request) bool {
	cfg := &c.srv.cfg
	if cfg.MaxBody > 0 && req.Length > cfg.MaxBody {
		c.refuse(&http1.Error{Status: 413, Reason: fmt.Sprintf("more than %d bytes", cfg.MaxBody)})
		return false
	}
	body := c.newBody(req)
	if req.Continue && !c.interimShown() {
		c.appendInterim([]byte("HTTP/1.1 100 Continue\r\n\r\n"))
	}
	if req.Length > 0 && req.Length <= int64(cfg.BufferedBody) {
		// A body of moderate size is waited for before the application is bothered.
		if err := body.await(); err != nil {
			c.refuse(err)
			return false
		}
	}
	patience := time.Now().Add(cfg.UpstreamPatience)
	for attempt := 0; ; attempt++ {
		closing, err := c.attempt(ctx, req, body, attempt > 0)
		if err == nil {
			return !closing
		}
		if c.over() {
			return false
		}
		if fault := body.fault(); fault != nil {
			c.discardReply()
			c.refuse(fault) // the client's own
			return false
		}
		c.srv.stats.UpstreamErrors.Add(1)
		// The local application erred. The client has not seen a byte of it, or
		// the connection cannot go on.
		if !c.discardReply() {
			c.srv.giveUp(c, fmt.Errorf("the local application broke off a streamed reply: %w", err))
			return false
		}
		up := c.srv.app.Suspect(ctx, err)
		body = body.again(req)
		if c.over() {
			return false
		}
		if late := errors.Is(err, os.ErrDeadlineExceeded); late || body == nil || up && attempt >= 3 || time.Now().After(patience) {
			status, reason := http.StatusBadGateway, "the application does not answer"
			if late {
				status, reason = http.StatusGatewayTimeout, "the application took too long"
			}
			c.answerPlain(status, reason, req)
			return false
		}
		c.pause(time.Duration(attempt+1) * 2 * time.Millisecond)
	}
}

// attempt sends the request to the local application once and logs the reply. again
// says that this server has tried before.
func (c *conn) attempt(ctx context.Context, req *http1.Request, body *requestBody, again bool) (closing bool, err error) {
	f := forward{client: c.id.Client, vip: c.id.VIP}
	f.name, f.replay = c.name(again)
	out := &outgoing{
		method: req.Method, head: f.head(req), length: req.Length, body: body, trailer: body.trailer,
	}
	if req.Minor == 1 && !c.interimShown() {
		out.interim = func(resp *http1.Response) {
			head, _, _ := replyHead(resp, req, false, time.Now())
			c.appendInterim(head)
		}
	}
	resp, err := c.srv.upstream.roundTrip(ctx, out)
	if err != nil {
		return false, err
	}
	defer resp.body.Close()
	head, length, closing := replyHead(resp.Response, req, !req.KeepAlive, time.Now())
	r := c.newCopier(resp, head, length)
	last, err := r.run()
	if err != nil {
		return false, err
	}
	end, known := body.close()
	c.endReply(last, r.begin, end, closing || !known)
	return closing || !known, nil
}

// name returns the name of the request in hand, and whether it may have been run before.
func (c *conn) name(again bool) (name string, replay bool) {
	c.mu.Lock()
	replay = c.replay || again || time.Now().Before(c.replayBefore)
	n := c.answered + 1
	c.mu.Unlock()
	if replay {
		c.srv.stats.Replayed.Add(1)
	}
	return fmt.Sprintf("%s-%08x/%d", c.id.Client, c.id.ISN, n), replay
}
