// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/understudy-net/understudy/internal/pki"
)

const good = `server: server1
controller: 172.31.255.1:9400
interface: eth0
pin_dir: /sys/fs/bpf/understudy
replication_listen: 10.0.1.2:9402
tls: {cert: a.crt, key: a.key, ca: ca.crt}
`

func TestParse(t *testing.T) {
	got, err := Parse([]byte(good + "disable: [gate]\n"))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Server: "server1", Controller: "172.31.255.1:9400", Interface: "eth0",
		PinDir: "/sys/fs/bpf/understudy", ReplicationListen: "10.0.1.2:9402", Disable: []string{"gate"},
		SpoolDir: DefaultSpoolDir,
		TLS:      &pki.Files{Cert: "a.crt", Key: "a.key", CA: "ca.crt"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseFaults(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":              {"", "the file is empty"},
		"not YAML":           {"server: [", "did not find"},
		"unknown key":        {good + "colour: red\n", "colour"},
		"missing":            {"server: x\n", "replication_listen is missing"},
		"all of the missing": {"server: x\n", "controller is missing"},
		"no address":         {strings.Replace(good, "10.0.1.2:9402", "somewhere", 1), `"somewhere" is not address:port`},
		"unspecified":        {strings.Replace(good, "10.0.1.2", "0.0.0.0", 1), "that the other server can reach"},
		"no tls":             {strings.Replace(good, "tls:", "#", 1), "tls is missing"},
		"half of tls":        {strings.Replace(good, ", ca: ca.crt", "", 1), "tls.ca is missing"},
		"tls and not":        {good + "insecure: true\n", "remove one of them"},
		"spool":              {good + "spool_dir: tmp\n", "not an absolute path"},
		"feature":            {good + "disable: [everything]\n", `"everything" is none of`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(c.text))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q in it", err, c.want)
			}
		})
	}
}

func TestLoadNamesTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.yaml")
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
	os.WriteFile(file, []byte("x: y"), 0o600)
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("error %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("server: &a [*a]"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse(b); err == nil && (c.Server == "" || c.ReplicationListen == "") {
			t.Errorf("accepted: %+v", c)
		}
	})
}
