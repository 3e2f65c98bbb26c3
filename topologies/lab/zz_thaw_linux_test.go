package lab

import (
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-net/understudy/topologies/lab/app"
	"github.com/understudy-net/understudy/topologies/lab/load"
)

func TestRootThaw(t *testing.T) {
	l := testLab(t)
	l.BinDir = os.Getenv("UNDERSTUDY_LAB_BIN")
	top := bringUp(t, l)
	l.Progress = nil
	defer Hurry()()
	admin, conn, _ := l.Admin()
	defer conn.Close()
	n40 := 40
	for i := range n40 {
		ld, _ := l.Load(t.Context(), top, load.Config{Connections: 12, Think: 150 * time.Millisecond, Seed: uint64(i),
			Mix: func(r *rand.Rand) []load.Request {
				return []load.Request{{Upload: -1, Reply: app.Reply{Size: 1000 + r.IntN(700000)*r.IntN(2), Pieces: 1 + r.IntN(3)}}}
			}})
		if err := ld.Ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(400 * time.Millisecond)
for ld.InProgress() < 2 { time.Sleep(200*time.Microsecond)}
		_, active, _, err := roles(t.Context(), admin, "web")
		if err != nil {
			t.Log(err)
			ld.Stop()
			l.WaitDuplex(t.Context())
			continue
		}
		st, _, _ := l.load()
		pid := st.find(active, roleAgent).PID
		at := time.Now()
		if os.Getenv("THAW") != "" {
		unix.Kill(pid, unix.SIGSTOP)
		time.Sleep(time.Duration(34+i%20) * time.Millisecond)
		unix.Kill(pid, unix.SIGCONT)
}
		time.Sleep(800 * time.Millisecond)
		r := ld.Stop()
		t.Logf("froze %s at %s for %d ms: %v stall %v", active, at.Format("15:04:05.000"), 34+i%20, r, r.LongestStall(at, at.Add(time.Second)))
		for _, e := range r.Events {
			t.Logf("  %s %d %v", e.Time.Format("15:04:05.000"), e.Connection, &e.Failure)
		}
		if err := l.WaitDuplex(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(l.LogTails(200))
}
