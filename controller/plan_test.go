// SPDX-License-Identifier: Apache-2.0

package controller

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/p4rt"
)

// Fragments carry no port: of a VIP's UDP services they all go to the pair, by one
// entry. Those of TCP have none.
func TestFragmentsOfUDP(t *testing.T) {
	cfg, err := config.Parse("services.yaml", []byte(`
switch: {name: s1, address: "127.0.0.1:9559", device_id: 1}
listen: {agents: "127.0.0.1:9400", admin: "unix:/run/understudy/c.sock", insecure: true}
gateways: [{address: 10.0.1.1, mac: "02:00:00:00:01:01"}]
pairs:
  - name: web
    servers:
      - {name: server1, port: 2, mac: "02:00:00:00:01:02", gateway: 10.0.1.1}
      - {name: server2, port: 3, mac: "02:00:00:00:01:03", gateway: 10.0.1.1}
services:
  - {name: web, pair: web, vip: 198.51.100.10, protocol: tcp, port: 80, upstream: "127.0.0.1:8080"}
  - {name: dns, pair: web, vip: 198.51.100.10, protocol: udp, port: 53, upstream: "127.0.0.1:53"}
  - {name: sip, pair: web, vip: 198.51.100.10, protocol: udp, port: 5060, upstream: "127.0.0.1:5060"}
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range standing(cfg) {
		if e.Table == "vip" {
			protocol, _ := e.Find("protocol")
			port, _ := e.Find("dst_port")
			got = append(got, fmt.Sprint(number(protocol), "/", number(port)))
		}
	}
	slices.Sort(got)
	if diff := cmp.Diff([]string{"1/0", "17/0", "17/5060", "17/53", "6/80"}, got); diff != "" {
		t.Errorf("vip entries, protocol and port, -want +got:\n%s", diff)
	}
}

func number(v p4rt.Value) uint64 {
	n, _ := v.Uint64()
	return n
}
