// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/topologies"
)

const wantController = `switch: {name: s1, address: '127.0.0.1:9559', device_id: 1}
listen: {agents: '172.31.255.1:9400', admin: 'unix:/run/test/controller.sock', insecure: true}
state_dir: /run/test/controller
heartbeat: {interval: 10ms, missed: 4, port: 9401}
gateways:
    - address: 192.0.2.1
      mac: 02:75:73:00:01:01
    - address: 10.0.1.1
      mac: 02:75:73:00:02:01
    - address: 10.0.2.1
      mac: 02:75:73:00:03:01
routes:
    - prefix: 192.0.2.0/24
      port: 1
      next_hop_mac: 02:75:73:00:01:02
      source_mac: 02:75:73:00:01:01
    - prefix: 10.0.1.0/24
      port: 2
      next_hop_mac: 02:75:73:00:02:02
      source_mac: 02:75:73:00:02:01
    - prefix: 10.0.2.0/24
      port: 3
      next_hop_mac: 02:75:73:00:03:02
      source_mac: 02:75:73:00:03:01
pairs:
    - name: web
      servers:
        - name: server1
          port: 2
          mac: 02:75:73:00:02:02
          gateway: 10.0.1.1
        - name: server2
          port: 3
          mac: 02:75:73:00:03:02
          gateway: 10.0.2.1
services:
    - name: web
      pair: web
      vip: 198.51.100.10
      protocol: tcp
      port: 80
      upstream: 127.0.0.1:8080
`

const wantAgent = `server: server2
controller: 172.31.255.1:9400
interface: eth0
pin_dir: /run/test/bpf/server2
replication_listen: 10.0.2.2:9402
insecure: true
`

func TestPlan(t *testing.T) {
	top, _, err := topologies.Load("")
	if err != nil {
		t.Fatal(err)
	}
	p := paths{"/run/test"}
	pl, err := newPlan(top, "/etc/topologies", p)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantController, string(pl.files[p.config("controller")])); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(wantAgent, string(pl.files[p.config("server2-agent")])); diff != "" {
		t.Error(diff)
	}
	want := []string{
		"switch on switch: understudy-switch --device-id 1 --cpu-port 510 --grpc-server-addr 127.0.0.1:9559 -i 1@p1 -i 2@p2 -i 3@p3 --enable-fault-injection",
		"server1-app on server1: understudy lab app --listen 127.0.0.1:8080 --name server1",
		"server2-app on server2: understudy lab app --listen 127.0.0.1:8080 --name server2",
		"controller on switch: understudy-controller --config /run/test/config/controller.yaml",
		"server1-agent on server1: understudy-agent --config /run/test/config/server1-agent.yaml",
		"server2-agent on server2: understudy-agent --config /run/test/config/server2-agent.yaml",
	}
	var got []string
	for _, p := range pl.processes {
		got = append(got, p.Name+" on "+p.Node+": "+strings.Join(p.Args, " "))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPlanOtherCommands(t *testing.T) {
	source := string(topologies.Pair())
	source = strings.Replace(source, `grpc: "127.0.0.1:9559"}`,
		`grpc: "127.0.0.1:9559", command: [simple_switch_grpc, "{interfaces}", --no-p4, --, --cpu-port, "{cpu_port}", --grpc-server-addr, "{grpc}"]}`, 1)
	source += "agent: {disable: [guard]}\n"
	source += "app: {command: [nginx, -p, \"{dir}\", -c, \"{topology_dir}/nginx.conf\", -g, \"daemon off;\", -x, \"{server} {address}\"]}\n"
	top, err := topologies.Parse([]byte(source))
	if err != nil {
		t.Fatal(err)
	}
	pl, err := newPlan(top, "/etc/topologies", paths{"/run/test"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"simple_switch_grpc", "-i", "1@p1", "-i", "2@p2", "-i", "3@p3", "--no-p4", "--", "--cpu-port", "510", "--grpc-server-addr", "127.0.0.1:9559"}
	if diff := cmp.Diff(want, pl.processes[0].Args); diff != "" {
		t.Error(diff)
	}
	if agent := string(pl.files["/run/test/config/server1-agent.yaml"]); !strings.Contains(agent, "disable: [guard]\n") {
		t.Errorf("agent:\n%s", agent)
	}
	want = []string{"nginx", "-p", "/run/test/app/server2", "-c", "/etc/topologies/nginx.conf", "-g", "daemon off;", "-x", "server2 127.0.0.1:8080"}
	if diff := cmp.Diff(want, pl.processes[2].Args); diff != "" {
		t.Error(diff)
	}
}

// bmv2 takes the place of the embedded switch in the same topology.
func TestPlanForBMv2(t *testing.T) {
	top, _, err := topologies.Load("")
	if err != nil {
		t.Fatal(err)
	}
	top.Retarget(topologies.BMv2)
	p, err := (&Lab{RunDir: "/run/test"}).Plan(top, "/")
	if err != nil {
		t.Fatal(err)
	}
	want := "simple_switch_grpc --device-id 1 -i 1@p1 -i 2@p2 -i 3@p3 --no-p4 --log-level off -- --grpc-server-addr 127.0.0.1:9559 --cpu-port 510"
	if got := strings.Join(p.Processes[0].Args, " "); got != want || !p.Processes[0].Sysfs {
		t.Errorf("got %s, /sys %v", got, p.Processes[0].Sysfs)
	}
	for _, f := range p.Files {
		if strings.HasSuffix(f.Name, "controller.yaml") && !strings.Contains(f.Content, "gnmi: none") {
			t.Errorf("the controller is to ask bmv2 for gNMI:\n%s", f.Content)
		}
	}
	for _, n := range p.Nodes {
		if n.Offloads {
			t.Errorf("%s keeps its offloads", n.Name)
		}
	}
	for i, want := range []string{"p1 above wire1", "p2 above wire2", "p3 above wire3"} {
		if got := p.Links[i].Interface + " above " + p.Links[i].Wire; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}
