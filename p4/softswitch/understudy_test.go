// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"encoding/hex"
	"testing"

	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

func TestSmoke(t *testing.T) {
	js, info := switchtest.Build(t, "understudy")
	h := switchtest.New(t, js, info)
	h.Insert("arp_reply", switchtest.Match{"target_ip": "10.0.0.1"}, "arp_answer", switchtest.Args{"mac": "02:00:00:00:00:01"})
	frame, _ := hex.DecodeString("ffffffffffff020000000a0a08060001080006040001020000000a0a0a00000a0000000000000a000001")
	for _, f := range h.Send(3, frame) {
		t.Logf("%d %x", f.Port, f.Data)
	}
}
