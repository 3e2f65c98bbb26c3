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
	var patience time.Time // from the first failure on
	for attempt := 0; ; attempt++ {
		closing, err := c.attempt(ctx, req, body, attempt > 0)
		if err == nil {
			return !closing
		}
		if c.over() {
			return false
		}
		partial := c.discardReply()
		if fault := body.fault(); fault != nil && partial == nil {
			c.refuse(fault) // the client's own
			return false
		} else if fault != nil || errors.Is(err, errDiffers) {
			c.srv.giveUp(c, err)
			return false
		}
		// The local application erred. Another run answers the request, or
		// continues the reply that was begun.
		c.srv.stats.UpstreamErrors.Add(1)
		if attempt == 0 {
			patience = time.Now().Add(cfg.UpstreamPatience)
		}
		up := c.srv.app.Suspect(ctx, err)
		body = body.again(req)
		late := errors.Is(err, os.ErrDeadlineExceeded)
		if body == nil && up && !late {
			c.pause(dyingTime)
			up = c.srv.app.Suspect(ctx, err)
		}
		if body == nil && !up && !late {
			c.pause(time.Until(patience)) // the other server can run it
		}
		if c.over() {
			return false
		}
		switch give := late || body == nil || up && attempt >= 3 || time.Now().After(patience); {
		case give && partial != nil, partial != nil && partial.endless:
			c.srv.giveUp(c, err)
			return false
		case give && late:
			c.answerPlain(http.StatusGatewayTimeout, "the application took too long", req)
			return false
		case give:
			c.answerPlain(http.StatusBadGateway, "the application does not answer", req)
			return false
		}
		c.pause(time.Duration(attempt+1) * 2 * time.Millisecond)
	}
}

// dyingTime is how long an application that is being killed may still seem alive: its
// kernel closes connections and listeners one after the other, in any order. On a busy
// machine that takes some milliseconds.
const dyingTime = 100 * time.Millisecond

// attempt sends the request to the local application once and logs the reply. again
// says that this server has tried before.
func (c *conn) attempt(ctx context.Context, req *http1.Request, body *requestBody, again bool) (closing bool, err error) {
	f := forward{client: c.id.Client, vip: c.id.VIP}
	f.name, f.replay = c.name(again)
	partial := c.discardReply()
	if partial != nil {
		if partial.complete() {
			return c.complete(nil, span{}, false, body, !req.KeepAlive), nil
		}
		f.extra = partial.ask(req.Method)
	}
	out := &outgoing{
		method: req.Method, head: f.head(req), length: req.Length, body: body, trailer: body.trailer,
		upgrade: upgradable(req) && partial == nil,
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
	if resp.Status == http.StatusSwitchingProtocols {
		return true, c.tunnel(resp, req)
	}
	var r *replyCopier
	if partial == nil {
		head, length, closes := replyHead(resp.Response, req, !req.KeepAlive, time.Now())
		r, closing = c.newCopier(resp, head, length), closes
	} else {
		if err := partial.skip(resp, f.extra, c.srv.cfg.UpstreamTimeout); err != nil {
			return false, err
		}
		c.srv.stats.Continued.Add(1)
		r = c.newCopier(resp, nil, partial.rest())
		r.begin, r.stream, r.shown = false, true, true
		closing = !req.KeepAlive || partial.length == http1.UntilClose
	}
	last, err := r.run()
	if err != nil {
		return false, err
	}
	return c.complete(last, r.span, r.begin, body, closing), nil
}

// complete logs the last piece of a reply. It returns whether the connection is closed
// after it.
func (c *conn) complete(last []byte, s span, begin bool, body *requestBody, closing bool) bool {
	end, known := body.close()
	c.endReply(last, s, begin, end, closing || !known)
	return closing || !known
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
