// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/understudy-net/understudy/internal/pki"
)

// The environment.
const (
	addressVariable = "UNDERSTUDY_CONTROLLER"
	certVariable    = "UNDERSTUDY_CERT"
	keyVariable     = "UNDERSTUDY_KEY"
	caVariable      = "UNDERSTUDY_CA"
	// contextVariable names the context file.
	contextVariable = "UNDERSTUDY_CONTEXT"
)

// Where the controller is looked for if nobody says where.
const (
	labSocket       = "/run/understudy/lab/controller.sock"
	localController = "localhost:9403"
)

// target is which controller is meant, and who asks. What flags do not say the
// environment does, and what that does not say the context file.
type target struct {
	Address string `yaml:"address"`
	// Files are who asks, on host:port.
	pki.Files `yaml:",inline"`
	// Insecure does without, on host:port.
	Insecure bool `yaml:"insecure"`
}

// flags adds the flags of a target.
func (t *target) flags(f *pflag.FlagSet) {
	f.StringVar(&t.Address, "address", "", `the controller's admin API, "host:port" or "unix:PATH"; by default
$`+addressVariable+`, else the lab's if there is one, else
`+localController)
	f.StringVar(&t.Cert, "cert", "", "your certificate, for host:port; by default $"+certVariable)
	f.StringVar(&t.Key, "key", "", "the key to it; by default $"+keyVariable)
	f.StringVar(&t.CA, "ca", "", "the controller's authority; by default $"+caVariable)
	f.BoolVar(&t.Insecure, "insecure", false, "do without certificates, as a controller with listen.insecure does")
}

// resolve fills in what the flags have left open.
func (t target) resolve(getenv func(string) string, exists func(string) bool) (target, error) {
	t.Address = cmp.Or(t.Address, getenv(addressVariable))
	t.Cert = cmp.Or(t.Cert, getenv(certVariable))
	t.Key = cmp.Or(t.Key, getenv(keyVariable))
	t.CA = cmp.Or(t.CA, getenv(caVariable))
	kept, err := readContext(getenv)
	if err != nil {
		return t, err
	}
	if t.Address == "" || t.Address == kept.Address {
		t.Address = kept.Address
		t.Cert, t.Key, t.CA = cmp.Or(t.Cert, kept.Cert), cmp.Or(t.Key, kept.Key), cmp.Or(t.CA, kept.CA)
		t.Insecure = t.Insecure || kept.Insecure
	}
	if t.Address == "" {
		t.Address = localController
		if exists(labSocket) {
			t.Address = "unix:" + labSocket
		}
	}
	return t, nil
}

// readContext reads the context file, which need not be there: address, cert, key, ca
// and insecure, as the flags; paths are relative to its folder.
func readContext(getenv func(string) string) (target, error) {
	var t target
	path := getenv(contextVariable)
	if path == "" {
		dir := getenv("XDG_CONFIG_HOME")
		if home := getenv("HOME"); dir == "" && home != "" {
			dir = filepath.Join(home, ".config")
		}
		if dir == "" {
			return t, nil
		}
		path = filepath.Join(dir, "understudy", "context.yaml")
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) && getenv(contextVariable) == "" {
		return t, nil
	}
	if err != nil {
		return t, fmt.Errorf("context: %w; correct $%s, or write the file", err, contextVariable)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, 1<<16))
	if err != nil {
		return t, fmt.Errorf("context: %w", err)
	}
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&t); err != nil && !errors.Is(err, io.EOF) {
		return t, fmt.Errorf("context %s: %w; it has the keys address, cert, key, ca and insecure", path, err)
	}
	for _, p := range []*string{&t.Cert, &t.Key, &t.CA} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(filepath.Dir(path), *p)
		}
	}
	return t, nil
}
