// SPDX-License-Identifier: Apache-2.0

package gnmi

import (
	"context"
	"slices"
	"strings"
	"testing"

	pb "github.com/openconfig/gnmi/proto/gnmi"
	"github.com/openconfig/goyang/pkg/yang"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

// everything shows one of each.
func everything(s *State) {
	s.SetPairs([]*adminv1.Pair{{
		Name: "web", State: adminv1.PairState_PAIR_STATE_FAILING_OVER, Epoch: 7, Connections: 50, Protected: 49,
		Servers: []*adminv1.Server{
			{Name: "server1", Role: adminv1.ServerRole_SERVER_ROLE_ACTIVE, Attached: true, ApplicationUp: true},
			{Name: "server2", AdminState: adminv1.AdminState_ADMIN_STATE_IN_SERVICE},
		},
	}})
	s.SetServices([]*adminv1.Service{{Name: "web", Pair: "web", Vip: "198.51.100.10", Protocol: "tcp", Port: 80}})
	s.SetSwitches([]Switch{{&adminv1.Switch{Name: "s1", Address: "127.0.0.1:9559", DeviceId: 1, State: "ready", Entries: 17, Groups: 1}, Subscribed.String()}})
	s.SetPeers([]*adminv1.Peer{{Name: "r1", Address: "192.0.2.254", Asn: 64513, State: "established"}})
}

func get(t *testing.T, s *State) map[string]*pb.TypedValue {
	t.Helper()
	r, err := s.NewServer().Get(context.Background(), &pb.GetRequest{Path: []*pb.Path{{}}, Encoding: pb.Encoding_PROTO})
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]*pb.TypedValue{}
	for _, u := range r.GetNotification()[0].GetUpdate() {
		var names []string
		for _, e := range u.GetPath().GetElem() {
			names = append(names, e.GetName())
			if len(e.GetKey()) > 0 {
				names[len(names)-1] += "[" + e.GetKey()["name"] + "]"
			}
		}
		values[strings.Join(names, "/")] = u.GetVal()
	}
	return values
}

// module reads the published YANG module.
func module(t *testing.T) *yang.Entry {
	t.Helper()
	ms := yang.NewModules()
	if err := ms.Read("../../api/yang/understudy-controller.yang"); err != nil {
		t.Fatal(err)
	}
	if errs := ms.Process(); len(errs) > 0 {
		t.Fatal(errs)
	}
	e, errs := ms.GetModule(Model.GetName())
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	return e
}

// fits says that a value is one of a YANG type.
func fits(v *pb.TypedValue, y *yang.YangType) bool {
	switch y.Kind {
	case yang.Ystring:
		_, ok := v.GetValue().(*pb.TypedValue_StringVal)
		return ok
	case yang.Yenum:
		return slices.Contains(y.Enum.Names(), v.GetStringVal())
	case yang.Ybool:
		_, ok := v.GetValue().(*pb.TypedValue_BoolVal)
		return ok
	case yang.Yuint16, yang.Yuint32, yang.Yuint64:
		_, ok := v.GetValue().(*pb.TypedValue_UintVal)
		return ok && (y.Kind != yang.Yuint16 || v.GetUintVal() < 1<<16)
	}
	return false
}

// What is served is what the YANG module describes: every path, every value, and no
// leaf of it is left out.
func TestStateBelongsToTheModel(t *testing.T) {
	var s State
	everything(&s)
	root := module(t)
	served := map[*yang.Entry]bool{}
	for path, v := range get(t, &s) {
		e := root
		for name := range strings.SplitSeq(path, "/") {
			name, _, keyed := strings.Cut(name, "[")
			if e = e.Dir[name]; e == nil || e.IsList() != keyed {
				break
			}
		}
		switch {
		case e == nil || !e.IsLeaf():
			t.Errorf("%s is no leaf of the model", path)
		case !fits(v, e.Type):
			t.Errorf("%s: %v is no %s", path, v, e.Type.Name)
		default:
			served[e] = true
		}
	}
	var walk func(e *yang.Entry)
	walk = func(e *yang.Entry) {
		for _, c := range e.Dir {
			walk(c)
		}
		// A list's key is the one of its state.
		if e.IsLeaf() && e.Type.Kind != yang.Yleafref && !served[e] {
			t.Errorf("%s is not served", e.Path())
		}
	}
	walk(root)
	if rev := root.Node.(*yang.Module).Revision; len(rev) == 0 || rev[0].Name != Model.GetVersion() {
		t.Errorf("the model's first revision is %v, and %s is said", rev, Model.GetVersion())
	}
}

// Every value of the Admin API's enumerations has a name in the model.
func TestStateHasAWordForEverything(t *testing.T) {
	state := module(t).Dir["understudy"].Dir["pairs"].Dir["pair"]
	enum := func(e *yang.Entry, leaf string) []string { return e.Dir["state"].Dir[leaf].Type.Enum.Names() }
	check := func(what string, model []string, values map[int32]string, prefix, unspecified string) {
		for _, v := range values {
			if w := word(v, prefix, unspecified); !slices.Contains(model, w) {
				t.Errorf("%s: the model has no %q", what, w)
			}
		}
	}
	check("pair", enum(state, "state"), adminv1.PairState_name, "PAIR_STATE_", "unknown")
	server := state.Dir["servers"].Dir["server"]
	check("role", enum(server, "role"), adminv1.ServerRole_name, "SERVER_ROLE_", "none")
	check("admin state", enum(server, "admin-state"), adminv1.AdminState_name, "ADMIN_STATE_", "in-service")
}

func TestStateTakesBackWhatIsGone(t *testing.T) {
	var s State
	everything(&s)
	s.SetPairs([]*adminv1.Pair{{Name: "sip"}})
	s.SetServices(nil)
	values := get(t, &s)
	for _, gone := range []string{"pair[web]", "server[server1]", "service[web]"} {
		for path := range values {
			if strings.Contains(path, gone) {
				t.Errorf("%s is still there", path)
			}
		}
	}
	if values["understudy/pairs/pair[sip]/state/state"].GetStringVal() != "unknown" || values["understudy/switches/switch[s1]/state/session"].GetStringVal() != "ready" {
		t.Errorf("what is left: %v", values)
	}
}
