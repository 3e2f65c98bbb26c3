// SPDX-License-Identifier: Apache-2.0

package desired

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/store"
)

// Who is out of service is remembered, as long as there is such a server.
func TestAdmin(t *testing.T) {
	c := start(t, small)
	server := c.Config().Pairs[0].Servers[0].Name
	third := config.Object{Kind: config.Servers, Name: "s9", Body: `{"pair": "web", "name": "s9", "port": 9, "mac": "02:00:00:00:09:09", "gateway": "` +
		c.Config().Gateways[0].Address.String() + `"}`}
	if _, err := c.Create(t.Context(), third, "test", false); err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]*store.Admin{
		server: {State: "drained", At: c.now, By: "test"}, "s9": {State: "fenced", Forced: true, At: c.now, By: "test"},
	} {
		if err := c.SetAdmin(name, a); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]store.Admin{
		server: {State: "drained", At: c.now, By: "test"}, "s9": {State: "fenced", Forced: true, At: c.now, By: "test"},
	}
	c.restart()
	if diff := cmp.Diff(want, c.Admin()); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if _, err := c.Delete(t.Context(), config.Servers, "s9", "test", false); err != nil {
		t.Fatal(err)
	}
	delete(want, "s9")
	for range 2 {
		if diff := cmp.Diff(want, c.Admin()); diff != "" {
			t.Errorf("after the server went (-want +got):\n%s", diff)
		}
		c.restart()
	}
	if err := c.SetAdmin(server, nil); err != nil {
		t.Fatal(err)
	}
	c.restart()
	if got := c.Admin(); len(got) > 0 {
		t.Errorf("remembered: %v", got)
	}
}
