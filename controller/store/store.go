// SPDX-License-Identifier: Apache-2.0

// Package store keeps what a controller must not forget: the configuration that is
// in force, whether it still has to be confirmed, what was made through the API, who
// was put out of service, and the numbers that pairs and servers have in the switch. It is one file, of
// go.etcd.io/bbolt: a change is there as a whole or not at all, and when Update
// returns it survives the end of the process and of the host.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/understudy-net/understudy/controller/config"
)

// Revision is a configuration that was in force.
type Revision struct {
	// File is the name that faults and people know it by; Text is its content.
	File string `json:"file"`
	Text []byte `json:"text"`
	// Source is the digest of the controller's own file at that time: as long as
	// the file has it, this revision is newer than the file.
	Source string `json:"source"`
	// Version is that of the whole, objects included.
	Version string    `json:"version"`
	At      time.Time `json:"at"`
	By      string    `json:"by"`
}

// Pending is a configuration in force that is taken back unless it is confirmed.
type Pending struct {
	Version  string    `json:"version"`
	Deadline time.Time `json:"deadline"`
	Previous Revision  `json:"previous"`
}

// State is everything that is kept.
type State struct {
	Running *Revision
	Pending *Pending
	// Objects are in the order in which they were made.
	Objects []config.Object
	Numbers config.Numbers
	// Admin are the servers that an operator has put out of service, by name.
	Admin map[string]Admin
}

// Admin is how an operator has put a server out of service.
type Admin struct {
	// State is "drained" or "fenced".
	State string `json:"state"`
	// Forced: whatever was lost with it.
	Forced bool      `json:"forced,omitempty"`
	At     time.Time `json:"at"`
	By     string    `json:"by"`
}

// Store is an open file. Its methods may be called from any goroutine.
type Store struct{ db *bolt.DB }

var (
	configuration = []byte("configuration")
	objects       = []byte("objects") // by sequence number
	running       = []byte("running")
	pending       = []byte("pending")
	numbers       = []byte("numbers")
	admin         = []byte("admin")
)

// File is the name of the store in its state directory.
const File = "controller.db"

// Open opens the store of a state directory, which must exist. Only one process can
// have it open.
func Open(dir string) (*Store, error) {
	path := filepath.Join(dir, File)
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: 2 * time.Second, FreelistType: bolt.FreelistMapType})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("state_dir: another controller uses %s; stop it, or name another state_dir", path)
	case err != nil:
		return nil, fmt.Errorf("state_dir: %s: %w; restore it from a copy, or remove it: what was made through the API is lost then", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{configuration, objects} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state_dir: %s: %w", path, err), db.Close())
	}
	return &Store{db}, nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// Load reads everything.
func (s *Store) Load() (State, error) {
	var st State
	err := s.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(configuration)
		return errors.Join(
			read(b, running, &st.Running), read(b, pending, &st.Pending), read(b, numbers, &st.Numbers), read(b, admin, &st.Admin),
			tx.Bucket(objects).ForEach(func(_, v []byte) error {
				var o config.Object
				if err := json.Unmarshal(v, &o); err != nil {
					return err
				}
				st.Objects = append(st.Objects, o)
				return nil
			}))
	})
	if err != nil {
		return State{}, fmt.Errorf("state_dir: %s: %w", s.db.Path(), err)
	}
	return st, nil
}

func read(b *bolt.Bucket, key []byte, v any) error {
	text := b.Get(key)
	if text == nil {
		return nil
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// Tx is one change of the store.
type Tx struct{ tx *bolt.Tx }

// Update makes a change: all that f does, or nothing if f or the disk fails.
func (s *Store) Update(f func(Tx) error) error {
	if err := s.db.Update(func(tx *bolt.Tx) error { return f(Tx{tx}) }); err != nil {
		return fmt.Errorf("state_dir: %s: %w", s.db.Path(), err)
	}
	return nil
}

func (t Tx) put(key []byte, v any, absent bool) error {
	b := t.tx.Bucket(configuration)
	if absent {
		return b.Delete(key)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, text)
}

// SetRunning replaces the configuration in force.
func (t Tx) SetRunning(r Revision) error { return t.put(running, r, false) }

// SetPending replaces what is to be confirmed; nil is nothing.
func (t Tx) SetPending(p *Pending) error { return t.put(pending, p, p == nil) }

// SetNumbers replaces the numbers.
func (t Tx) SetNumbers(n config.Numbers) error { return t.put(numbers, n, false) }

// SetAdmin replaces who is out of service.
func (t Tx) SetAdmin(m map[string]Admin) error { return t.put(admin, m, len(m) == 0) }

// Add appends an object.
func (t Tx) Add(o config.Object) error {
	b := t.tx.Bucket(objects)
	n, err := b.NextSequence()
	if err != nil {
		return err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	key := make([]byte, 8)
	for i := range key {
		key[i] = byte(n >> (56 - 8*i)) // big endian: in order
	}
	return b.Put(key, text)
}

// Remove removes an object; one that is not there is none.
func (t Tx) Remove(kind config.Kind, name string) error {
	c := t.tx.Bucket(objects).Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		var o config.Object
		if json.Unmarshal(v, &o) == nil && o.Kind == kind && o.Name == name {
			return c.Delete()
		}
	}
	return nil
}
