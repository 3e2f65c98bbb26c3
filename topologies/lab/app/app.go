// SPDX-License-Identifier: Apache-2.0

// Package app is the lab's web server: an application that is not
// deterministic, on purpose. Each reply carries a token that was drawn for it
// alone, and its body follows from the token. So two servers never give the same
// reply, and one that was put together from two, or sent twice, gives itself
// away to a client that knows Body.
package app

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The header fields of a reply.
const (
	// HeaderRequestID is sent by the client and echoed.
	HeaderRequestID = "Lab-Request-Id"
	// HeaderToken is TokenSize random bytes in hex. The body is Body(token).
	HeaderToken = "Lab-Token"
	// HeaderServer is the server's name.
	HeaderServer = "Lab-Server"
	// HeaderInstance is random, one per process.
	HeaderInstance = "Lab-Instance"
	// HeaderSequence counts the replies of an instance, from 1.
	HeaderSequence = "Lab-Sequence"
	// HeaderBodyHash is the SHA-256 of the request's body, in hex; replies to POST.
	HeaderBodyHash = "Lab-Body-Sha256"
)

// TokenSize is the length of a token in bytes.
const TokenSize = 16

// Limits of what a request may ask for.
const (
	MaxSize   = 1 << 30
	MaxPieces = 10000
	MaxDelay  = time.Minute
)

// Path is where Reply is served.
const Path = "/reply"

// Reply is what a request asks the server to do.
type Reply struct {
	// Size is the length of the body.
	Size int
	// Pieces is the number of parts in which the body is written, with Delay
	// before each: 1 is written at once.
	Pieces int
	Delay  time.Duration
	// Chunked asks for the chunked transfer coding instead of a Content-Length.
	Chunked bool
}

// URI returns the request target that asks for r.
func (r Reply) URI() string {
	u := Path + "?size=" + strconv.Itoa(r.Size)
	if r.Pieces > 1 {
		u += "&pieces=" + strconv.Itoa(r.Pieces)
	}
	if r.Delay > 0 {
		u += "&delay=" + r.Delay.String()
	}
	if r.Chunked {
		u += "&chunked=1"
	}
	return u
}

func parseReply(q url.Values) (Reply, error) {
	r := Reply{Size: 200, Pieces: 1}
	number := func(name string, v *int, low, high int) error {
		if !q.Has(name) {
			return nil
		}
		n, err := strconv.Atoi(q.Get(name))
		if err != nil || n < low || n > high {
			return fmt.Errorf("%s: want a number from %d to %d", name, low, high)
		}
		*v = n
		return nil
	}
	if err := errors.Join(number("size", &r.Size, 0, MaxSize), number("pieces", &r.Pieces, 1, MaxPieces)); err != nil {
		return r, err
	}
	if q.Has("delay") {
		d, err := time.ParseDuration(q.Get("delay"))
		if err != nil || d < 0 || d > MaxDelay {
			return r, fmt.Errorf("delay: want a duration up to %v", MaxDelay)
		}
		r.Delay = d
	}
	r.Chunked = q.Get("chunked") == "1"
	return r, nil
}

// Body returns the endless stream of bytes of which every reply with this token
// is the beginning. Its Read always fills the slice.
func Body(token []byte) io.Reader {
	h := sha256.New()
	io.WriteString(h, "understudy lab reply\x00")
	h.Write(token)
	return rand.NewChaCha8([32]byte(h.Sum(nil)))
}

// handler is one application process.
type handler struct {
	name     string
	instance string
	sequence atomic.Uint64
}

// Handler returns a new instance of the application. Every path but Path gives a
// line of text, for people, unless the query asks for a size.
func Handler(name string) http.Handler {
	h := &handler{name: name, instance: hex.EncodeToString(random(8))}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path, h.reply)
	mux.HandleFunc("POST "+Path, h.reply)
	mux.HandleFunc("/", h.index)
	return mux
}

func random(n int) []byte {
	b := make([]byte, n)
	crand.Read(b) // never fails
	return b
}

// begin sets the header fields that every reply has.
func (h *handler) begin(w http.ResponseWriter, r *http.Request) (token []byte, sequence uint64) {
	token = random(TokenSize)
	sequence = h.sequence.Add(1)
	head := w.Header()
	if id := r.Header.Get(HeaderRequestID); id != "" {
		head.Set(HeaderRequestID, id)
	}
	head.Set(HeaderToken, hex.EncodeToString(token))
	head.Set(HeaderServer, h.name)
	head.Set(HeaderInstance, h.instance)
	head.Set(HeaderSequence, strconv.FormatUint(sequence, 10))
	return token, sequence
}

func (h *handler) index(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Has("size") {
		h.reply(w, r)
		return
	}
	token, sequence := h.begin(w, r)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "%s %s: reply %d of %s instance %s, token %x\n", r.Method, r.URL.Path, sequence, h.name, h.instance, token)
}

func (h *handler) reply(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost {
		http.Error(w, "want GET, HEAD or POST", http.StatusMethodNotAllowed)
		return
	}
	want, err := parseReply(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.Method == http.MethodPost {
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set(HeaderBodyHash, hex.EncodeToString(sum.Sum(nil)))
	}
	token, _ := h.begin(w, r)
	w.Header().Set("Content-Type", "application/octet-stream")
	if !want.Chunked {
		w.Header().Set("Content-Length", strconv.Itoa(want.Size))
	}
	h.write(w, r, want, Body(token))
}

// pause waits; false if the context ends before. Go's poller counts whole
// milliseconds, so that a thread of its own waits for what is shorter.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 2*time.Millisecond {
		ts := syscall.NsecToTimespec(int64(d))
		syscall.Nanosleep(&ts, nil)
		return ctx.Err() == nil
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

const pieceSize = 64 << 10

var buffers = sync.Pool{New: func() any { return new([pieceSize]byte) }}

func (h *handler) write(w http.ResponseWriter, r *http.Request, want Reply, body io.Reader) {
	flush := http.NewResponseController(w).Flush
	buf := buffers.Get().(*[pieceSize]byte)[:min(want.Size, pieceSize)]
	defer buffers.Put((*[pieceSize]byte)(buf[:pieceSize]))
	left := want.Size
	for piece := want.Pieces; piece > 0; piece-- {
		if want.Delay > 0 && !pause(r.Context(), want.Delay) {
			return
		}
		for n := left / piece; n > 0; {
			b := buf[:min(n, len(buf))]
			body.Read(b)
			if _, err := w.Write(b); err != nil {
				return
			}
			n -= len(b)
			left -= len(b)
		}
		if piece > 1 || want.Chunked {
			flush()
		}
	}
}

// Serve runs a new instance on ln until ctx ends; that is a nil error. It closes
// ln. The first requests are its own, so that it is as quick as one that has served
// for a while: memory is there, code has been loaded.
func Serve(ctx context.Context, ln net.Listener, name string) error {
	srv := &http.Server{Handler: Handler(name), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	go warm(ctx, Handler(name))
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// warm runs h on a listener of its own and asks it for a few replies of each kind, on
// as many connections as may be busy at a time.
func warm(ctx context.Context, h http.Handler) {
	const connections, rounds = 16, 4
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return
	}
	srv := &http.Server{Handler: h}
	defer srv.Close()
	go srv.Serve(ln)
	client := &http.Client{Transport: &http.Transport{MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			for range rounds {
				for _, r := range []Reply{{Size: 100_000, Pieces: 3, Delay: time.Millisecond}, {Size: 20_000, Pieces: 2, Chunked: true}} {
					req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+ln.Addr().String()+r.URI(), bytes.NewReader(make([]byte, 20_000)))
					if err != nil {
						return
					}
					res, err := client.Do(req)
					if err != nil {
						return
					}
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}
		})
	}
	wg.Wait()
}
