// SPDX-License-Identifier: Apache-2.0

// Package load is a client that believes nothing. It keeps many connections
// busy, in the rhythm of people rather than of a benchmark, and checks every
// byte of what comes back: that each request got one reply, the right one, in
// its place, and that nothing else came. It speaks HTTP/1.1 itself, since a
// library would repair what shall be seen.
//
// It needs the server of package app.
package load

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-net/understudy/topologies/lab/app"
)

// Config says what load to make.
type Config struct {
	// Dial opens a connection to the service.
	Dial func(context.Context) (net.Conn, error)
	// Host is the Host header field.
	Host string
	// Connections is how many are kept open, each with a goroutine of its own.
	Connections int
	// Think is the mean time between a reply and the next request; each is drawn
	// from half of it to one and a half. 0 means DefaultThink, a negative one none.
	Think time.Duration
	// Timeout is how long a request may take, until its last byte; 0 means
	// DefaultTimeout.
	Timeout time.Duration
	// Mix is what is sent; nil means DefaultMix.
	Mix Mix
	// Seed makes the choice of requests and pauses repeatable.
	Seed uint64
}

// Defaults of Config.
const (
	DefaultThink   = 500 * time.Millisecond
	DefaultTimeout = 10 * time.Second
)

const (
	// redial is the pause after a connection that broke or was refused.
	redial = 50 * time.Millisecond
	// writeSize is how much is handed to the kernel at a time, so that progress
	// is seen in the middle of an upload.
	writeSize = 16 << 10
	// linger is how long a connection may take to end after its last reply.
	linger = 2 * time.Second
	// keptReasons is how many failures are described; all are counted.
	keptReasons = 20
)

// Event is one failure, and when it was noticed.
type Event struct {
	Time       time.Time
	Connection int
	Failure
}

// Report is what a load has seen.
type Report struct {
	Connections int
	// Requests counts those that were begun; Replies those that got the right
	// reply. Each of the others is counted by its failure.
	Requests, Replies int
	// Failed, Reset and Corrupt count failures. A connection that breaks with two
	// outstanding requests counts twice; one that breaks without any, once.
	Failed, Reset, Corrupt int
	// Events describes the first failures.
	Events []Event
	// Unclosed counts connections that the server had not ended two seconds
	// after the client had ended its side.
	Unclosed int
	// Received and Sent count the bytes of bodies, of requests that succeeded.
	Received, Sent int64
	// Latencies of the requests that succeeded, ascending; from the first byte
	// sent to the last received, in a pipeline from the first request's first.
	Latencies []time.Duration

	stalls []stall
}

// Clean reports that nothing at all went wrong.
func (r *Report) Clean() bool { return r.Failed == 0 && r.Reset == 0 && r.Corrupt == 0 }

// LongestStall is the longest time in which a connection with an outstanding
// request made no progress, of those that overlap the time between the two
// instants; each counts in full. A request is outstanding from just before its
// first byte is handed to the kernel until the last byte of its reply was read;
// progress is a byte of a reply received, or one of a request accepted by the
// kernel. A request that fails ends its stall, so one that was never answered
// counts as its timeout. The time that the application takes, and that in which
// the client's goroutine waits for a CPU, are part of it. Stalls of less than a
// tenth of a millisecond are not kept: the result is then 0.
func (r *Report) LongestStall(from, to time.Time) time.Duration {
	return longest(r.stalls, from, to)
}

// Quantile returns the latency below which the share p of the requests was.
func (r *Report) Quantile(p float64) time.Duration {
	if len(r.Latencies) == 0 {
		return 0
	}
	return r.Latencies[min(len(r.Latencies)-1, int(p*float64(len(r.Latencies))))]
}

// Load is a load that is under way.
type Load struct {
	cfg        Config
	ledger     *Ledger
	run        string
	stopping   chan struct{}
	stop       sync.Once
	wg         sync.WaitGroup
	inProgress atomic.Int64
	// answered counts the connections that have had a reply; ready is closed
	// when all have.
	answered atomic.Int64
	ready    chan struct{}

	mu     sync.Mutex
	report Report
}

// Start begins the load. It ends with Stop; if ctx ends before, the connections
// are closed at once and what was outstanding does not count.
func Start(ctx context.Context, cfg Config) *Load {
	if cfg.Think == 0 {
		cfg.Think = DefaultThink
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = DefaultTimeout
	}
	if cfg.Mix == nil {
		cfg.Mix = DefaultMix
	}
	l := &Load{
		cfg:      cfg,
		ledger:   NewLedger(),
		run:      fmt.Sprintf("%08x", rand.Uint32()),
		stopping: make(chan struct{}),
		ready:    make(chan struct{}),
		report:   Report{Connections: cfg.Connections},
	}
	for i := range cfg.Connections {
		c := &client{load: l, number: i, rand: rand.New(rand.NewPCG(cfg.Seed, uint64(i)))}
		l.wg.Go(func() { c.loop(ctx) })
	}
	return l
}

// Ready waits until every connection has had its first right reply.
func (l *Load) Ready(ctx context.Context) error {
	select {
	case <-l.ready:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	err := fmt.Errorf("load: %d of %d connections have had a reply", l.answered.Load(), l.cfg.Connections)
	if len(l.report.Events) > 0 {
		err = fmt.Errorf("%w; first failure: %w", err, &l.report.Events[0].Failure)
	}
	return err
}

// InProgress returns the number of requests that are outstanding now.
func (l *Load) InProgress() int { return int(l.inProgress.Load()) }

// Stop lets every connection finish what is outstanding, checks that nothing
// comes after the last reply, and returns what was seen. It waits until then, at
// most a little more than Config.Timeout.
func (l *Load) Stop() *Report {
	l.stop.Do(func() { close(l.stopping) })
	l.wg.Wait()
	slices.Sort(l.report.Latencies)
	return &l.report
}

func (l *Load) stopped() bool {
	select {
	case <-l.stopping:
		return true
	default:
		return false
	}
}

// client is one connection, and the next one when it breaks.
type client struct {
	load   *Load
	number int
	rand   *rand.Rand
	sent   int // requests, for their ids
	stalls stalls
	conn   net.Conn
	check  *checker
	// checked says that the first reply was counted in load.answered.
	checked bool
	buf     []byte
}

// loop alternates between thinking and asking. It is the connection's only
// goroutine.
func (c *client) loop(ctx context.Context) {
	l := c.load
	// A hard end: wake up whatever the connection waits for.
	var current atomic.Pointer[net.Conn]
	hangUp := context.AfterFunc(ctx, func() {
		if conn := current.Load(); conn != nil {
			(*conn).Close()
		}
	})
	defer hangUp()
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.report.stalls = append(l.report.stalls, c.stalls.kept...)
	}()

	// Not all at once.
	if !c.pause(ctx, time.Duration(c.rand.Int64N(int64(max(1, l.cfg.Think))))) {
		return
	}
	for !l.stopped() && ctx.Err() == nil {
		if c.conn == nil {
			if err := c.dial(ctx); err != nil {
				if ctx.Err() == nil {
					l.count(c.number, 1, failure(Failed, "connect: %v", err))
				}
				if !c.pause(ctx, redial) {
					return
				}
				continue
			}
			conn := c.conn
			current.Store(&conn)
			if ctx.Err() != nil {
				conn.Close()
				return
			}
		}
		n, f := c.exchange()
		if f == nil {
			f = c.think()
		}
		if f != nil && ctx.Err() == nil {
			l.count(c.number, max(1, n), f)
		}
		if f != nil {
			c.conn.Close()
			c.conn = nil
			if !c.pause(ctx, redial) {
				return
			}
		}
	}
	if c.conn != nil {
		c.finish(ctx)
	}
}

// pause waits without a connection; false means that the load ends.
func (c *client) pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c.load.stopping:
	case <-ctx.Done():
	}
	return false
}

// Read passes on what the connection received and notes the progress.
func (c *client) Read(p []byte) (int, error) {
	n, err := c.conn.Read(p)
	if n > 0 {
		c.stalls.progress(time.Now())
	}
	return n, err
}

func (c *client) dial(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.load.cfg.Timeout)
	defer cancel()
	conn, err := c.load.cfg.Dial(ctx)
	if err != nil {
		return err
	}
	c.conn = conn
	c.check = newChecker(c.load.ledger, c)
	return nil
}

// exchange sends one draw of the mix and checks the replies. With a failure it
// returns how many requests have no right reply.
func (c *client) exchange() (unanswered int, f *Failure) {
	l := c.load
	requests := l.cfg.Mix(c.rand)
	pending := make([]expected, len(requests))
	begun := time.Now()
	c.conn.SetDeadline(begun.Add(l.cfg.Timeout))
	l.inProgress.Add(int64(len(requests)))
	l.mu.Lock()
	l.report.Requests += len(requests)
	l.mu.Unlock()
	c.stalls.begin(begun)
	defer func() {
		c.stalls.end(time.Now())
		l.inProgress.Add(-int64(unanswered))
	}()

	out := &writer{client: c, buf: c.buf[:0]}
	for i, q := range requests {
		c.sent++
		pending[i] = expected{id: fmt.Sprintf("%s-%d-%d", l.run, c.number, c.sent), reply: q.Reply}
		pending[i].bodyHash = out.request(l.cfg.Host, pending[i].id, q)
	}
	out.flush()
	c.buf = out.buf[:0]
	if out.err != nil {
		return len(requests), classify("request "+pending[0].id+", sending", out.err)
	}
	for i, q := range pending {
		if f := c.check.reply(q); f != nil {
			return len(pending) - i, f
		}
		l.inProgress.Add(-1)
		l.success(time.Since(begun), requests[i])
	}
	if !c.checked {
		c.checked = true
		if l.answered.Add(1) == int64(l.cfg.Connections) {
			close(l.ready)
		}
	}
	return 0, c.check.quiet()
}

// writer puts requests together and sends them in pieces of writeSize.
type writer struct {
	client *client
	buf    []byte
	err    error
}

// request appends a request, and returns the hash of its body; "" for a GET.
func (w *writer) request(host, id string, q Request) string {
	method, length := "GET", ""
	if q.Upload >= 0 {
		method = "POST"
		length = fmt.Sprintf("Content-Length: %d\r\n", q.Upload)
	}
	w.buf = fmt.Appendf(w.buf, "%s %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\n%s\r\n",
		method, q.Reply.URI(), host, app.HeaderRequestID, id, length)
	if q.Upload < 0 {
		return ""
	}
	sum := sha256.New()
	body := app.Body([]byte(id))
	for left := q.Upload; left > 0; {
		if len(w.buf) >= writeSize {
			w.flush()
		}
		n := min(left, writeSize-len(w.buf))
		w.buf = slices.Grow(w.buf, n)
		b := w.buf[len(w.buf) : len(w.buf)+n]
		body.Read(b)
		sum.Write(b)
		w.buf = w.buf[:len(w.buf)+n]
		left -= n
	}
	return hex.EncodeToString(sum.Sum(nil))
}

func (w *writer) flush() {
	if len(w.buf) > 0 && w.err == nil {
		_, w.err = w.client.conn.Write(w.buf)
		if w.err == nil {
			w.client.stalls.progress(time.Now())
		}
	}
	w.buf = w.buf[:0]
}

// think waits for the next request's time, listening: until then nothing may
// come, not even the connection's end.
func (c *client) think() *Failure {
	d := c.load.cfg.Think
	if d < 0 {
		return nil
	}
	d = d/2 + time.Duration(c.rand.Int64N(int64(d)+1))
	c.conn.SetReadDeadline(time.Now().Add(d))
	err := c.check.in.fill()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err == nil {
		return c.check.quiet()
	}
	return classify("between requests", err)
}

// finish ends the connection in good order: the client's side first, then
// nothing may come but the server's end.
func (c *client) finish(ctx context.Context) {
	defer c.conn.Close()
	half, ok := c.conn.(interface{ CloseWrite() error })
	if !ok {
		return
	}
	c.conn.SetDeadline(time.Now().Add(linger))
	err := half.CloseWrite()
	if err == nil {
		err = c.check.in.fill()
	}
	var f *Failure
	switch {
	case ctx.Err() != nil || errors.Is(err, io.EOF):
		return
	case err == nil:
		f = c.check.quiet()
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.load.mu.Lock()
		c.load.report.Unclosed++
		c.load.mu.Unlock()
		return
	default:
		f = classify("at the end", err)
	}
	c.load.count(c.number, 1, f)
}

func (l *Load) success(d time.Duration, q Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.report.Replies++
	l.report.Latencies = append(l.report.Latencies, d)
	l.report.Received += int64(q.Reply.Size)
	l.report.Sent += int64(max(0, q.Upload))
}

// count counts a failure n times and describes it once.
func (l *Load) count(connection, n int, f *Failure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f.Class {
	case Failed:
		l.report.Failed += n
	case Reset:
		l.report.Reset += n
	case Corrupt:
		l.report.Corrupt += n
	}
	if len(l.report.Events) < keptReasons {
		l.report.Events = append(l.report.Events, Event{time.Now(), connection, *f})
	}
}

// String sums a report up in a line.
func (r *Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests on %d connections: %d failed, %d reset, %d corrupt", r.Requests, r.Connections, r.Failed, r.Reset, r.Corrupt)
	if r.Unclosed > 0 {
		fmt.Fprintf(&b, ", %d not closed", r.Unclosed)
	}
	return b.String()
}
