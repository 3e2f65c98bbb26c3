// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/store"
)

const small = `switch: {name: s1, address: "127.0.0.1:9559", device_id: 0}
listen: {agents: ":9400", admin: "127.0.0.1:9402", insecure: true}
gateways:
  - {address: 10.0.1.1, mac: "02:00:00:00:01:01"}
pairs:
  - name: web
    servers:
      - {name: a, port: 1, mac: "02:00:00:00:00:0a", gateway: 10.0.1.1}
      - {name: b, port: 2, mac: "02:00:00:00:00:0b", gateway: 10.0.1.1}
services:
  - {name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: "127.0.0.1:80"}
`

var (
	other = strings.Replace(small, "port: 80,", "port: 81,", 1)
	wrong = strings.Replace(small, "port: 80,", "port: 0,", 1)
)

func service(name string, port int) config.Object {
	return config.Object{Kind: config.Services, Name: name, Body: fmt.Sprintf(
		`{"name": %q, "pair": "web", "vip": "198.51.100.11", "protocol": "tcp", "port": %d, "upstream": "127.0.0.1:80"}`, name, port)}
}

// controller is what a Desired has around it.
type controller struct {
	*Desired
	t     *testing.T
	dir   string
	store *store.Store
	now   time.Time
	// applied are the versions that were carried out; fail refuses the next one.
	applied []string
	fail    error
}

func start(t *testing.T, text string) *controller {
	c := &controller{t: t, dir: t.TempDir(), now: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)}
	c.write(text)
	if err := c.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.store.Close() })
	return c
}

func (c *controller) file() string { return filepath.Join(c.dir, "c.yaml") }

func (c *controller) write(text string) {
	c.t.Helper()
	if err := os.WriteFile(c.file(), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

func (c *controller) open() (err error) {
	if c.store, err = store.Open(c.dir); err != nil {
		return err
	}
	c.Desired, err = Open(Options{File: c.file(), Store: c.store, Now: func() time.Time { return c.now }})
	if err != nil {
		return err
	}
	c.Use(func(_ context.Context, cfg *config.Config) error {
		if c.fail != nil {
			return c.fail
		}
		c.applied = append(c.applied, cfg.Version())
		return nil
	})
	return nil
}

// restart is what a new process finds.
func (c *controller) restart() {
	c.t.Helper()
	c.store.Close()
	if err := c.open(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *controller) ports() (list []int) {
	for _, s := range c.Config().Services {
		list = append(list, int(s.Port))
	}
	return list
}

func (c *controller) expect(ports ...int) {
	c.t.Helper()
	if diff := cmp.Diff(ports, c.ports()); diff != "" {
		c.t.Errorf("ports of the services in force (-want +got):\n%s", diff)
	}
	if v := c.Config().Version(); c.Status().Version != v {
		c.t.Errorf("status %+v, version %s", c.Status(), v)
	}
}

func (c *controller) apply(text string, confirm time.Duration) error {
	_, err := c.Apply(c.t.Context(), Request{File: "new.yaml", Text: []byte(text), Confirm: confirm, By: "ann"})
	return err
}

func TestApply(t *testing.T) {
	c := start(t, small)
	c.expect(80)
	p, err := c.Plan(Request{File: "new.yaml", Text: []byte(other)})
	if err != nil || len(p.Changes) != 1 || p.Changes[0].String() != "~ service web port: 80 -> 81" || p.From == p.To {
		t.Errorf("plan %+v, %v", p, err)
	}
	c.expect(80) // a plan does nothing
	if err := c.apply(other, 0); err != nil {
		t.Fatal(err)
	}
	c.expect(81)
	if st := c.Status(); st.By != "ann" || st.File != "new.yaml" || st.Stale {
		t.Errorf("status %+v", st)
	}
	// Again: no error.
	if err := c.apply(other, 0); err != nil {
		t.Fatal(err)
	}
	// It outlives the process, though the file says something else: it is newer.
	c.restart()
	c.expect(81)
	// A change of the file is newer still.
	c.write(strings.Replace(small, "port: 80,", "port: 82,", 1))
	c.restart()
	c.expect(82)
	// And so is what is asked for explicitly.
	if err := c.apply(other, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Reload(t.Context(), "SIGHUP"); err != nil {
		t.Fatal(err)
	}
	c.expect(82)
}

// What is wrong is refused whole, and said; the last good one stays, over restarts
// too.
func TestWrong(t *testing.T) {
	c := start(t, small)
	var faults config.Faults
	if err := c.apply(wrong, 0); !errors.As(err, &faults) {
		t.Fatalf("error %v", err)
	}
	c.expect(80)
	if st := c.Status(); !st.Stale || !strings.HasPrefix(st.Problem, "new.yaml:11: services[0].port") {
		t.Errorf("status %+v", st)
	}
	if err := c.apply(other, 0); err != nil {
		t.Fatal(err)
	}
	if st := c.Status(); st.Stale || st.Problem != "" {
		t.Errorf("status %+v", st)
	}
	c.write(wrong)
	if _, err := c.Reload(t.Context(), "SIGHUP"); !errors.As(err, &faults) {
		t.Fatalf("error %v", err)
	}
	c.expect(81)
	c.restart()
	c.expect(81)
	if st := c.Status(); !st.Stale || !strings.Contains(st.Problem, "c.yaml:11") {
		t.Errorf("status %+v", st)
	}
	os.Remove(c.file())
	c.restart()
	c.expect(81)
	if _, err := c.Reload(t.Context(), "SIGHUP"); !errors.Is(err, os.ErrNotExist) || !c.Status().Stale {
		t.Errorf("error %v", err)
	}
	// As it was when the other one was applied: that is the newer one, again.
	c.write(small)
	c.restart()
	c.expect(81)
	if c.Status().Stale {
		t.Errorf("status %+v", c.Status())
	}

	// With nothing good there is nothing to begin with.
	none := &controller{t: t, dir: t.TempDir()}
	none.write(wrong)
	if err := none.open(); !errors.As(err, &faults) {
		t.Errorf("error %v", err)
	}
	none.store.Close()
}

func TestRefused(t *testing.T) {
	c := start(t, small)
	if err := c.apply(strings.Replace(small, "9402", "9403", 1), 0); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "cannot change listen admin") {
		t.Errorf("error %v", err)
	}
	c.fail = errors.New("no room")
	if err := c.apply(other, 0); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("error %v", err)
	}
	c.expect(80)
	c.restart()
	c.expect(80) // on disk, too
	c.fail = nil
	_, err := c.Apply(t.Context(), Request{File: "new.yaml", Text: []byte(other), IfVersion: "0123"})
	if !errors.Is(err, ErrVersion) {
		t.Errorf("error %v", err)
	}
	if _, err := c.Apply(t.Context(), Request{File: "new.yaml", Text: []byte(other), IfVersion: c.Status().Version}); err != nil {
		t.Error(err)
	}
	if err := c.apply(small, time.Millisecond); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
}

func TestConfirm(t *testing.T) {
	c := start(t, small)
	first := c.Status().Version
	if err := c.apply(other, time.Minute); err != nil {
		t.Fatal(err)
	}
	c.expect(81)
	// Nothing else meanwhile.
	if err := c.apply(small, 0); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
	if _, err := c.Create(t.Context(), service("x", 90), "ann", false); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}
	// It is still to be confirmed after a restart, and then for good.
	c.restart()
	c.expect(81)
	if c.Status().Deadline.IsZero() {
		t.Errorf("status %+v", c.Status())
	}
	if err := c.Confirm(first); !errors.Is(err, ErrVersion) {
		t.Errorf("error %v", err)
	}
	if err := c.Confirm(c.Status().Version); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(time.Hour)
	c.restart()
	c.expect(81)
	if err := c.Confirm(""); err != nil { // once more is no error
		t.Error(err)
	}

	// By hand.
	if err := c.apply(small, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := c.RollBack(t.Context(), "ann"); err != nil {
		t.Fatal(err)
	}
	c.expect(81)
	if err := c.RollBack(t.Context(), "ann"); !errors.Is(err, ErrRefused) {
		t.Errorf("error %v", err)
	}

	// While the controller is away.
	if err := c.apply(small, time.Minute); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(time.Hour)
	c.restart()
	c.expect(81)
	if !c.Status().Deadline.IsZero() {
		t.Errorf("status %+v", c.Status())
	}
}

// Time alone rolls back.
func TestConfirmExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := start(t, small)
		c.opts.Now = time.Now
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		if err := c.apply(other, time.Minute); err != nil {
			t.Fatal(err)
		}
		time.Sleep(59 * time.Second)
		synctest.Wait()
		c.expect(81)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		c.expect(80)
		if err := c.apply(other, time.Minute); err != nil {
			t.Fatal(err)
		}
		if err := c.Confirm(""); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		c.expect(81)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestObjects(t *testing.T) {
	c := start(t, small)
	ctx := t.Context()
	create := func(o config.Object) error {
		_, err := c.Create(ctx, o, "ann", false)
		return err
	}
	p, err := c.Create(ctx, service("x", 90), "ann", true)
	if err != nil || len(p.Changes) != 1 || p.Changes[0].Path != "service x" {
		t.Errorf("plan %+v, %v", p, err)
	}
	c.expect(80)  // dry
	for range 2 { // again is no error
		if err := create(service("x", 90)); err != nil {
			t.Fatal(err)
		}
	}
	c.expect(80, 90)
	if err := create(service("x", 91)); !errors.Is(err, ErrExists) {
		t.Errorf("error %v", err)
	}
	var faults config.Faults
	if err := create(service("web", 91)); !errors.As(err, &faults) {
		t.Errorf("error %v", err)
	}
	if err := create(service("y", 90)); !errors.As(err, &faults) || faults[0].Object == nil {
		t.Errorf("error %v", err)
	}
	c.expect(80, 90)
	c.restart()
	c.expect(80, 90)

	// A file that is in the way of an object is refused, and it is said why.
	clash := small + `  - {name: x, pair: web, vip: 198.51.100.12, protocol: tcp, port: 1, upstream: "127.0.0.1:80"}` + "\n"
	if err := c.apply(clash, 0); err == nil || !strings.Contains(err.Error(), `services/x: service "x" stands twice`) {
		t.Errorf("error %v", err)
	}
	// One that is not leaves it alone.
	if err := c.apply(other, 0); err != nil {
		t.Fatal(err)
	}
	c.expect(81, 90)
	if _, err := c.Delete(ctx, config.Services, "web", "ann", false); !errors.Is(err, ErrNotFound) {
		t.Errorf("error %v", err)
	}
	c.fail = errors.New("no")
	if _, err := c.Delete(ctx, config.Services, "x", "ann", false); err == nil {
		t.Error("no error")
	}
	c.fail = nil
	c.restart()
	c.expect(81, 90)
	if _, err := c.Delete(ctx, config.Services, "x", "ann", false); err != nil {
		t.Fatal(err)
	}
	c.restart()
	c.expect(81)
}

// Numbers in the switch outlive the order of the file.
func TestNumbersStay(t *testing.T) {
	pair := func(name, a, b string) string {
		return fmt.Sprintf("  - name: %s\n    servers:\n      - {name: %s, port: 1, mac: \"02:00:00:00:01:%s\", gateway: 10.0.1.1}\n      - {name: %s, port: 1, mac: \"02:00:00:00:01:%s\", gateway: 10.0.1.1}\n",
			name, a, a, b, b)
	}
	text := func(pairs ...string) string {
		return strings.Split(small, "pairs:")[0] + "pairs:\n" + strings.Join(pairs, "") + "services: []\n"
	}
	c := start(t, text(pair("p", "aa", "bb"), pair("q", "cc", "dd")))
	before := c.Config().Numbers()
	if err := c.apply(text(pair("n", "ee", "ff"), pair("q", "dd", "cc"), pair("p", "aa", "bb")), 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got := c.Config().Numbers()
		if got.Pairs["n"] != 3 {
			t.Errorf("numbers %+v", got)
		}
		delete(got.Pairs, "n")
		delete(got.Replicas, "n")
		if !got.Equal(before) {
			t.Errorf("numbers (-before +now):\n%s", cmp.Diff(before, got))
		}
		c.restart()
	}
}

func TestStateDir(t *testing.T) {
	for text, want := range map[string]string{
		small:                               config.DefaultStateDir,
		"x: [\nstate_dir: /var/x  # here":   "/var/x",
		"state_dir: \"/var/y\"\n":           "/var/y",
		"  state_dir: /indented":            config.DefaultStateDir,
		"state_dir: relative\nlisten: {}\n": config.DefaultStateDir,
	} {
		if got := StateDir([]byte(text)); got != want {
			t.Errorf("%q: %s", text, got)
		}
	}
}

const killDir = "UNDERSTUDY_TEST_KILL_DIR"

// TestKillHelper is the process that is killed: it makes objects, deletes some, and
// says so once that is done.
func TestKillHelper(t *testing.T) {
	dir := os.Getenv(killDir)
	if dir == "" {
		t.Skip("run by TestKill")
	}
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := Open(Options{File: filepath.Join(dir, "c.yaml"), Store: s, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	d.Use(func(context.Context, *config.Config) error { return nil })
	for i := len(d.state.Objects) + 1; ; i++ {
		port := 1000 + i
		for d.find(config.Services, "s"+strconv.Itoa(port)) >= 0 {
			port++
		}
		name := "s" + strconv.Itoa(port)
		if _, err := d.Create(t.Context(), service(name, port), "x", false); err != nil {
			t.Fatal(err)
		}
		fmt.Println("created", name)
		if i%3 == 0 {
			fmt.Println("deleting", name)
			if _, err := d.Delete(t.Context(), config.Services, name, "x", false); err != nil {
				t.Fatal(err)
			}
			fmt.Println("deleted", name)
		}
	}
}

// Whatever was said to be done is there after kill -9, at any moment, and what is
// there is whole.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(small), 0o600); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	total := 0
	for range 12 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKillHelper$", "-test.v")
		cmd.Env = append(os.Environ(), killDir+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Lines are read up to a random one; what comes after it was done, too.
		left := rand.IntN(12) + 1
		maybe := "" // being deleted
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			what, name, _ := strings.Cut(lines.Text(), " ")
			switch what {
			case "created":
				want[name] = true
				total++
			case "deleting":
				maybe = name
			case "deleted":
				delete(want, name)
				maybe = ""
			default:
				continue
			}
			if left--; left == 0 {
				time.Sleep(rand.N(2 * time.Millisecond)) // in the middle of something
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if left > 0 {
			t.Fatal("the helper ended by itself")
		}
		s, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		d, err := Open(Options{File: filepath.Join(dir, "c.yaml"), Store: s, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]bool{}
		for _, o := range d.state.Objects {
			got[o.Name] = true
		}
		extra := 0
		for name := range got {
			if !want[name] {
				extra++ // made, and killed before it could say so
				want[name] = true
			}
		}
		for name := range want {
			if !got[name] && name != maybe {
				t.Errorf("%s was made, and is gone", name)
			}
			if !got[name] {
				delete(want, name)
			}
		}
		if extra > 1 {
			t.Errorf("%d objects that nobody made", extra)
		}
		if v := d.Config().Version(); v != d.Status().Version || len(d.Config().Services) != len(got)+1 {
			t.Errorf("version %s, status %+v", v, d.Status())
		}
		s.Close()
	}
	t.Logf("%d objects made in 12 lives", total)
}
