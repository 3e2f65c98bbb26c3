// SPDX-License-Identifier: Apache-2.0

// Package desired decides which configuration is in force. There are two sources: a
// file, and what was made through the API. They are checked together, changed one at
// a time, as a whole or not at all, and remembered (docs/configuration.md says by
// which rules).
package desired

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/store"
)

// What keeps a change from being made, beside config.Faults.
var (
	// ErrNotFound: there is no such thing.
	ErrNotFound = errors.New("not found")
	// ErrExists: there is another thing of that name.
	ErrExists = errors.New("exists already")
	// ErrRefused: it cannot be done as things are.
	ErrRefused = errors.New("refused")
	// ErrVersion: the configuration is not the one that the caller knows.
	ErrVersion = errors.New("the configuration has changed meanwhile")
)

// Options are what a Desired needs. File, Store and Now are required.
type Options struct {
	// File is the controller's own configuration file.
	File  string
	Store *store.Store
	// Logger may be nil.
	Logger *slog.Logger
	Now    func() time.Time
	// Changed is called after each change, and when one has failed. It must not
	// block. It may be nil.
	Changed func(Status)
}

// Status says which configuration is in force.
type Status struct {
	Version string
	// File is what it came from, By who brought it.
	File string
	At   time.Time
	By   string
	// Stale says that the file on disk, or what was to be applied last, is not in
	// force: it was refused because of Problem.
	Stale   bool
	Problem string
	// Deadline is not zero if the configuration has yet to be confirmed.
	Deadline time.Time
}

// Desired is the configuration in force and how it changes. Its methods may be
// called from any goroutine.
type Desired struct {
	opts Options
	wake chan struct{} // the deadline has changed

	// changing is held while a change is made.
	changing sync.Mutex
	state    store.State
	apply    func(context.Context, *config.Config) error
	current  atomic.Pointer[config.Config]
	status   atomic.Pointer[Status]
}

// Open decides what a controller that starts begins with:
//
//   - the file, if it was changed since a configuration came into force, or none
//     ever did;
//   - else what came into force last, be it the file or what an operator applied;
//   - what was in force before, if that was to be confirmed and its time is over.
//
// If the file is wrong, the last good configuration is used, and Status says so. It
// is an error only if there is none: that of the file, which is config.Faults if it
// is about its content.
func Open(opts Options) (*Desired, error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Desired{opts: opts, wake: make(chan struct{}, 1)}
	var err error
	if d.state, err = opts.Store.Load(); err != nil {
		return nil, err
	}
	if p := d.state.Pending; p != nil && !opts.Now().Before(p.Deadline) {
		opts.Logger.Warn("a configuration was not confirmed in time; the one before is back", "version", p.Version, "back_to", p.Previous.Version)
		d.state.Running, d.state.Pending = &p.Previous, nil
	}
	text, readErr := config.ReadFile(opts.File)
	source := digest(text)
	last := d.state.Running
	if readErr == nil && (last == nil || last.Source != source) {
		// The file is the newest. What was to be confirmed is over with it.
		cfg, err := d.parse(opts.File, text)
		if err == nil {
			r := store.Revision{File: opts.File, Text: text, Source: source, At: opts.Now(), By: "start"}
			return d, d.begin(cfg, r, nil, "")
		}
		readErr = err
	}
	if last == nil {
		return nil, readErr
	}
	cfg, err := d.parse(last.File, last.Text)
	if err != nil {
		return nil, cmp.Or(readErr, err)
	}
	problem := ""
	if readErr != nil {
		problem = readErr.Error()
		opts.Logger.Error("the configuration file is wrong; the last good configuration is in force", "file", opts.File, "faults", problem)
	}
	return d, d.begin(cfg, *last, d.state.Pending, problem)
}

// begin puts the first configuration in force.
func (d *Desired) begin(cfg *config.Config, r store.Revision, pending *store.Pending, problem string) error {
	r.Version = cfg.Version()
	if err := d.save(cfg, r, pending, nil); err != nil {
		return err
	}
	d.publish(cfg, problem)
	return nil
}

// StateDir finds the state directory in a text that may not be a configuration at
// all: what was good last is there.
func StateDir(text []byte) string {
	if m := stateDir.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return config.DefaultStateDir
}

var stateDir = regexp.MustCompile(`(?m)^state_dir:\s*["']?(/[^"'\s#]+)`)

func digest(text []byte) string {
	h := sha256.Sum256(text)
	return hex.EncodeToString(h[:])
}

// Config is the configuration in force. It must not be changed.
func (d *Desired) Config() *config.Config { return d.current.Load() }

// Status says which one it is.
func (d *Desired) Status() Status { return *d.status.Load() }

// Use sets who carries out changes. It is called before the first of them.
func (d *Desired) Use(apply func(context.Context, *config.Config) error) { d.apply = apply }

// parse checks a text with the objects and the numbers that there are.
func (d *Desired) parse(file string, text []byte) (*config.Config, error) {
	return parse(file, text, d.state.Objects, d.state.Numbers)
}

func parse(file string, text []byte, objects []config.Object, numbers config.Numbers) (*config.Config, error) {
	cfg, err := config.ParseWith(file, text, objects)
	if err != nil {
		return nil, err
	}
	return cfg, cfg.Renumber(numbers)
}

// save makes the state what it shall be, on disk and in memory. Objects change as
// change says, which may be nil.
func (d *Desired) save(cfg *config.Config, r store.Revision, pending *store.Pending, change func(store.Tx) error) error {
	numbers := cfg.Numbers()
	err := d.opts.Store.Update(func(tx store.Tx) error {
		if change != nil {
			if err := change(tx); err != nil {
				return err
			}
		}
		return errors.Join(tx.SetRunning(r), tx.SetPending(pending), tx.SetNumbers(numbers))
	})
	if err != nil {
		return err
	}
	d.state.Running, d.state.Pending, d.state.Numbers = &r, pending, numbers
	return nil
}

// publish tells what is in force now.
func (d *Desired) publish(cfg *config.Config, problem string) {
	r := d.state.Running
	st := Status{Version: r.Version, File: r.File, At: r.At, By: r.By, Stale: problem != "", Problem: problem}
	if p := d.state.Pending; p != nil {
		st.Deadline = p.Deadline
	}
	d.current.Store(cfg)
	d.status.Store(&st)
	select {
	case d.wake <- struct{}{}:
	default:
	}
	if d.opts.Changed != nil {
		d.opts.Changed(st)
	}
}

// complain keeps what is in force, and says that something else was refused.
func (d *Desired) complain(err error) {
	st := d.Status()
	st.Stale, st.Problem = true, err.Error()
	d.status.Store(&st)
	if d.opts.Changed != nil {
		d.opts.Changed(st)
	}
}

// Plan is what an Apply would do, or has done.
type Plan struct {
	// From and To are versions.
	From, To string
	Changes  []config.Change
}

// Needs is an error if a running controller cannot make the changes.
func (p Plan) needs() error {
	var list []string
	for _, c := range p.Changes {
		if c.Restart {
			list = append(list, c.Path)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return fmt.Errorf("%w: a running controller cannot change %s; write it into the controller's file and restart it",
		ErrRefused, strings.Join(list, ", "))
}

// Request asks for a configuration to be applied.
type Request struct {
	// File is what faults call it.
	File string
	Text []byte
	// Confirm, if not zero, is how long it stays without a Confirm.
	Confirm time.Duration
	// IfVersion, if not empty, is the version that must be in force.
	IfVersion string
	By        string
	// own says that the text is that of the controller's own file.
	own bool
}

// Bounds of Request.Confirm.
const (
	MinConfirm = time.Second
	MaxConfirm = 24 * time.Hour
)

// Plan says what applying a text would change.
func (d *Desired) Plan(r Request) (Plan, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	_, p, err := d.plan(r)
	return p, err
}

func (d *Desired) plan(r Request) (*config.Config, Plan, error) {
	now := d.current.Load()
	if v := d.state.Running.Version; r.IfVersion != "" && r.IfVersion != v {
		return nil, Plan{}, fmt.Errorf("%w: %s is in force, not %s; plan again", ErrVersion, v, r.IfVersion)
	}
	cfg, err := d.parse(r.File, r.Text)
	if err != nil {
		return nil, Plan{}, err
	}
	return cfg, Plan{From: d.state.Running.Version, To: cfg.Version(), Changes: config.Diff(now, cfg)}, nil
}

// Apply puts a text in force, or nothing of it. To apply what is in force already
// changes nothing, and is no error.
func (d *Desired) Apply(ctx context.Context, r Request) (Plan, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	p, err := d.applyRequest(ctx, r)
	if err != nil {
		d.opts.Logger.Error("a configuration was refused; the last good one stays in force", "file", r.File, "by", r.By, "error", err)
		d.complain(err)
	}
	return p, err
}

func (d *Desired) applyRequest(ctx context.Context, r Request) (Plan, error) {
	if r.Confirm != 0 && (r.Confirm < MinConfirm || r.Confirm > MaxConfirm) {
		return Plan{}, fmt.Errorf("%w: %v is no time to confirm in; give one from %v to %v", ErrRefused, r.Confirm, MinConfirm, MaxConfirm)
	}
	if err := d.settled(); err != nil && !r.own {
		return Plan{}, err
	}
	cfg, p, err := d.plan(r)
	if err != nil {
		return p, err
	}
	if err := p.needs(); err != nil {
		return p, err
	}
	source := digest(r.Text)
	if !r.own {
		// As long as the file stays as it is, this is newer.
		text, err := config.ReadFile(d.opts.File)
		if err != nil {
			text = nil
		}
		source = digest(text)
	}
	next := store.Revision{File: r.File, Text: r.Text, Source: source, Version: p.To, At: d.opts.Now(), By: r.By}
	var pending *store.Pending
	if r.Confirm != 0 {
		pending = &store.Pending{Version: p.To, Deadline: d.opts.Now().Add(r.Confirm), Previous: *d.state.Running}
	}
	return p, d.replace(ctx, cfg, next, pending, nil, nil)
}

// settled is an error while a configuration waits to be confirmed.
func (d *Desired) settled() error {
	p := d.state.Pending
	if p == nil {
		return nil
	}
	return fmt.Errorf("%w: configuration %s waits to be confirmed, until %s; confirm it or roll back first",
		ErrRefused, p.Version, p.Deadline.Format(time.TimeOnly))
}

// replace puts a configuration in force: on disk first, so that a controller that
// dies in the middle comes back with it, or rolls it back in time. If it cannot be
// carried out, all is as before.
func (d *Desired) replace(ctx context.Context, cfg *config.Config, next store.Revision, pending *store.Pending, change, undo func(store.Tx) error) error {
	old, before := d.current.Load(), d.state
	if err := d.save(cfg, next, pending, change); err != nil {
		return err
	}
	if d.apply != nil {
		if err := d.apply(ctx, cfg); err != nil {
			if back := d.save(old, *before.Running, before.Pending, undo); back != nil {
				return errors.Join(err, back)
			}
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	d.publish(cfg, "")
	if err := d.pruneAdmin(cfg); err != nil {
		d.opts.Logger.Warn("a server that is no more is still remembered as out of service", "error", err)
	}
	d.opts.Logger.Info("configuration in force", "version", next.Version, "file", next.File, "by", next.By)
	return nil
}

// Reload applies the controller's own file.
func (d *Desired) Reload(ctx context.Context, by string) (Plan, error) {
	text, err := config.ReadFile(d.opts.File)
	if err != nil {
		d.changing.Lock()
		defer d.changing.Unlock()
		d.complain(err)
		return Plan{}, err
	}
	return d.Apply(ctx, Request{File: d.opts.File, Text: text, By: by, own: true})
}

// Confirm keeps a configuration that waits for it. An empty version is any; to
// confirm what is in force and does not wait is no error.
func (d *Desired) Confirm(version string) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if v := d.state.Running.Version; version != "" && version != v {
		return fmt.Errorf("%w: %s is in force, not %s", ErrVersion, v, version)
	}
	if d.state.Pending == nil {
		return nil
	}
	if err := d.opts.Store.Update(func(tx store.Tx) error { return tx.SetPending(nil) }); err != nil {
		return err
	}
	d.state.Pending = nil
	d.publish(d.current.Load(), "")
	return nil
}

// RollBack takes back a configuration that waits to be confirmed.
func (d *Desired) RollBack(ctx context.Context, by string) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	return d.rollBack(ctx, by)
}

func (d *Desired) rollBack(ctx context.Context, by string) error {
	p := d.state.Pending
	if p == nil {
		return fmt.Errorf("%w: no configuration waits to be confirmed", ErrRefused)
	}
	prev := p.Previous
	cfg, err := d.parse(prev.File, prev.Text)
	if err != nil {
		return err
	}
	d.opts.Logger.Warn("the configuration before is back", "version", prev.Version, "instead_of", p.Version, "by", by)
	return d.replace(ctx, cfg, prev, nil, nil, nil)
}

// Run rolls back what is not confirmed in time, until ctx ends.
func (d *Desired) Run(ctx context.Context) error {
	for {
		var due <-chan time.Time
		if at := d.Status().Deadline; !at.IsZero() {
			due = time.After(at.Sub(d.opts.Now()))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-d.wake:
		case <-due:
			if err := d.expire(ctx); err != nil {
				d.opts.Logger.Error("the configuration that was not confirmed cannot be rolled back", "error", err)
				d.complain(err)
				select { // not in a hurry
				case <-ctx.Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		}
	}
}

func (d *Desired) expire(ctx context.Context) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if p := d.state.Pending; p == nil || d.opts.Now().Before(p.Deadline) {
		return nil // confirmed in the last moment
	}
	return d.rollBack(ctx, "not confirmed in time")
}

func (d *Desired) String() string { return "configuration" }

// ---- objects ----

// Object returns what was made through the API under a name.
func (d *Desired) Object(kind config.Kind, name string) (config.Object, bool) {
	d.changing.Lock()
	defer d.changing.Unlock()
	i := d.find(kind, name)
	if i < 0 {
		return config.Object{}, false
	}
	return d.state.Objects[i], true
}

// Names returns the names of all objects of a kind.
func (d *Desired) Names(kind config.Kind) map[string]bool {
	d.changing.Lock()
	defer d.changing.Unlock()
	names := map[string]bool{}
	for _, o := range d.state.Objects {
		if o.Kind == kind {
			names[o.Name] = true
		}
	}
	return names
}

func (d *Desired) find(kind config.Kind, name string) int {
	return slices.IndexFunc(d.state.Objects, func(o config.Object) bool { return o.Kind == kind && o.Name == name })
}

// MaxObjects bounds what can be made through the API.
const MaxObjects = 1 << 15

// Create makes an object. To make the same one again is no error.
func (d *Desired) Create(ctx context.Context, o config.Object, by string, dryRun bool) (Plan, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	if i := d.find(o.Kind, o.Name); i >= 0 {
		if same(d.state.Objects[i].Body, o.Body) {
			v := d.state.Running.Version
			return Plan{From: v, To: v}, nil
		}
		return Plan{}, fmt.Errorf("%w: %s, and is not the same; delete it first, or take another name", ErrExists, o)
	}
	if len(d.state.Objects) >= MaxObjects {
		return Plan{}, fmt.Errorf("%w: there are %d objects, and room for no more; write some into the file instead", ErrRefused, MaxObjects)
	}
	more := append(slices.Clone(d.state.Objects), o)
	return d.changeObjects(ctx, more, by, dryRun,
		func(tx store.Tx) error { return tx.Add(o) },
		func(tx store.Tx) error { return tx.Remove(o.Kind, o.Name) })
}

// Delete removes an object that was made through the API.
func (d *Desired) Delete(ctx context.Context, kind config.Kind, name, by string, dryRun bool) (Plan, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	i := d.find(kind, name)
	if i < 0 {
		return Plan{}, fmt.Errorf("%w: %s/%s was not made through the API", ErrNotFound, kind, name)
	}
	o := d.state.Objects[i]
	fewer := slices.Delete(slices.Clone(d.state.Objects), i, i+1)
	return d.changeObjects(ctx, fewer, by, dryRun,
		func(tx store.Tx) error { return tx.Remove(kind, name) },
		func(tx store.Tx) error { return tx.Add(o) })
}

func (d *Desired) changeObjects(ctx context.Context, objects []config.Object, by string, dryRun bool, change, undo func(store.Tx) error) (Plan, error) {
	if err := d.settled(); err != nil {
		return Plan{}, err
	}
	r := *d.state.Running
	cfg, err := parse(r.File, r.Text, objects, d.state.Numbers)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{From: r.Version, To: cfg.Version(), Changes: config.Diff(d.current.Load(), cfg)}
	if err := p.needs(); err != nil || dryRun {
		return p, err
	}
	r.Version, r.At, r.By = p.To, d.opts.Now(), by
	old := d.state.Objects
	d.state.Objects = objects
	if err := d.replace(ctx, cfg, r, nil, change, undo); err != nil {
		d.state.Objects = old
		return p, err
	}
	return p, nil
}

// same compares bodies that are JSON.
func same(a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		return a == b
	}
	return reflect.DeepEqual(x, y)
}
