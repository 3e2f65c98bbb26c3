// SPDX-License-Identifier: Apache-2.0

package app

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestReply(t *testing.T) {
	srv := httptest.NewServer(Handler("server1"))
	defer srv.Close()
	for _, tc := range []struct {
		name string
		want Reply
	}{
		{"empty", Reply{Size: 0}},
		{"small", Reply{Size: 200}},
		{"pieces", Reply{Size: 100_001, Pieces: 7, Delay: time.Millisecond}},
		{"chunked", Reply{Size: 70_000, Pieces: 3, Chunked: true}},
		{"more pieces than bytes", Reply{Size: 3, Pieces: 5}},
		{"big", Reply{Size: 1_000_000}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, _ := http.NewRequest("GET", srv.URL+tc.want.URI(), nil)
			req.Header.Set(HeaderRequestID, "r1")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			got, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			if id := res.Header.Get(HeaderRequestID); id != "r1" {
				t.Errorf("request id %q", id)
			}
			if chunked := res.ContentLength < 0; chunked != tc.want.Chunked {
				t.Errorf("chunked: %v", chunked)
			}
			token, err := hex.DecodeString(res.Header.Get(HeaderToken))
			if err != nil || len(token) != TokenSize {
				t.Fatalf("token: %x, %v", token, err)
			}
			want := make([]byte, tc.want.Size)
			io.ReadFull(Body(token), want)
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes that do not follow from the token", len(got))
			}
		})
	}
}

func TestTwoRepliesDiffer(t *testing.T) {
	srv := httptest.NewServer(Handler("server1"))
	defer srv.Close()
	seen := make(map[string]bool)
	for range 10 {
		res, err := http.Get(srv.URL + Path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		for _, v := range []string{string(body), res.Header.Get(HeaderToken), "sequence " + res.Header.Get(HeaderSequence)} {
			if seen[v] {
				t.Errorf("again: %.40q", v)
			}
			seen[v] = true
		}
	}
}

func TestPostEchoesHash(t *testing.T) {
	srv := httptest.NewServer(Handler("server1"))
	defer srv.Close()
	body := bytes.Repeat([]byte("understudy"), 50_000)
	res, err := http.Post(srv.URL+Path, "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if got, want := res.Header.Get(HeaderBodyHash), sha256.Sum256(body); got != hex.EncodeToString(want[:]) {
		t.Errorf("hash %s", got)
	}
}

func TestRefuses(t *testing.T) {
	h := Handler("server1")
	for _, query := range []string{"size=-1", "size=x", "pieces=0", "delay=1h", "delay=fast", "size=99999999999"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", Path+"?"+query, nil))
		if w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

func TestAnyPathWithASize(t *testing.T) {
	w := httptest.NewRecorder()
	Handler("server2").ServeHTTP(w, httptest.NewRequest("GET", "/?size=1000", nil))
	if w.Code != 200 || w.Body.Len() != 1000 {
		t.Errorf("%d, %d bytes", w.Code, w.Body.Len())
	}
	w = httptest.NewRecorder()
	Handler("server2").ServeHTTP(w, httptest.NewRequest("DELETE", "/?size=1000", nil))
	if w.Code != 405 {
		t.Errorf("%d", w.Code)
	}
}

func TestIndex(t *testing.T) {
	w := httptest.NewRecorder()
	Handler("server2").ServeHTTP(w, httptest.NewRequest("GET", "/hello", nil))
	if w.Code != 200 || !strings.Contains(w.Body.String(), "GET /hello: reply 1 of server2") {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}
