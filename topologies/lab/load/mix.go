// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math"
	"math/rand/v2"
	"time"

	"github.com/understudy-net/understudy/topologies/lab/app"
)

// Request is one request to send.
type Request struct {
	// Upload is the length of the body of a POST; negative means GET.
	Upload int
	Reply  app.Reply
}

// Mix draws what a connection sends next: one request, or several to send
// without waiting for the replies between them. It must depend on nothing but
// the generator.
type Mix func(*rand.Rand) []Request

// share is a part of a distribution of sizes.
type share struct {
	weight    float64
	low, high int
}

// Sizes are heavy-tailed, as those of the web are: most replies are small, most
// bytes are in large ones.
var (
	replySizes  = []share{{0.55, 200, 2000}, {0.27, 2000, 16_000}, {0.15, 16_000, 96_000}, {0.027, 96_000, 400_000}, {0.003, 400_000, 1_000_000}}
	uploadSizes = []share{{0.70, 100, 4000}, {0.25, 4000, 32_000}, {0.05, 32_000, 256_000}}
)

func draw(r *rand.Rand, shares []share) int {
	p := r.Float64()
	s := shares[len(shares)-1]
	for _, c := range shares {
		if p < c.weight {
			s = c
			break
		}
		p -= c.weight
	}
	// Uniform in the logarithm.
	low, high := math.Log(float64(s.low)), math.Log(float64(s.high))
	return min(s.high, int(math.Exp(low+r.Float64()*(high-low))))
}

// Uniform is GETs for replies of one size, written at once.
func Uniform(size int) Mix {
	return func(*rand.Rand) []Request {
		return []Request{{Upload: -1, Reply: app.Reply{Size: size, Pieces: 1}}}
	}
}

// DefaultMix is the demo's load: three GETs to one POST, replies of 200 bytes to
// 1 MB, two of five of them written in pieces within two milliseconds, a quarter of
// these chunked; one time in sixteen, two GETs are pipelined.
//
// The application is quick because its time is part of every stall: a proxy that
// holds a reply back until it is safe lets no byte of it pass before.
func DefaultMix(r *rand.Rand) []Request {
	if r.IntN(16) == 0 {
		small := replySizes[:2]
		return []Request{
			{Upload: -1, Reply: app.Reply{Size: draw(r, small), Pieces: 1}},
			{Upload: -1, Reply: app.Reply{Size: draw(r, small), Pieces: 1}},
		}
	}
	q := Request{Upload: -1, Reply: app.Reply{Size: draw(r, replySizes), Pieces: 1}}
	if r.IntN(4) == 0 {
		q.Upload = draw(r, uploadSizes)
	}
	if r.IntN(5) < 2 {
		// 0.25 to 2 ms in all.
		q.Reply.Pieces = 1 + r.IntN(4)
		q.Reply.Delay = time.Duration(1+r.IntN(8/q.Reply.Pieces)) * 250 * time.Microsecond
		q.Reply.Chunked = r.IntN(4) == 0
	}
	return []Request{q}
}
