// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"maps"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/store"
)

// Admin returns the servers that an operator has put out of service, by name. The map
// belongs to the caller.
func (d *Desired) Admin() map[string]store.Admin {
	d.changing.Lock()
	defer d.changing.Unlock()
	return maps.Clone(d.state.Admin)
}

// SetAdmin remembers how a server is out of service; nil is in service. To say once more
// what is so already writes nothing. When it returns, the next controller knows it.
func (d *Desired) SetAdmin(server string, a *store.Admin) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	old, ok := d.state.Admin[server]
	if a == nil && !ok || a != nil && ok && a.State == old.State && a.Forced == old.Forced {
		return nil
	}
	next := maps.Clone(d.state.Admin)
	if next == nil {
		next = map[string]store.Admin{}
	}
	delete(next, server)
	if a != nil {
		next[server] = *a
	}
	return d.saveAdmin(next)
}

// pruneAdmin forgets servers that are no more. The caller holds d.changing.
func (d *Desired) pruneAdmin(cfg *config.Config) error {
	next := maps.Clone(d.state.Admin)
	maps.DeleteFunc(next, func(name string, _ store.Admin) bool { return !cfg.HasServer(name) })
	if len(next) == len(d.state.Admin) {
		return nil
	}
	return d.saveAdmin(next)
}

func (d *Desired) saveAdmin(next map[string]store.Admin) error {
	if err := d.opts.Store.Update(func(tx store.Tx) error { return tx.SetAdmin(next) }); err != nil {
		return err
	}
	d.state.Admin = next
	return nil
}
