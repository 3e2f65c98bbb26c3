// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
	"github.com/understudy-net/understudy/internal/version"
)

func newSupportBundle(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "support-bundle",
		Short: "Gather what somebody who helps would ask for into one file",
		Long: `Gather what somebody who helps would ask for into one file: pairs, services,
switches, peers, past failovers, which configuration is in force (not its text, which
may have secrets), a diagnosis of each service, metrics, and, where journalctl has it
on this host, the controller's log. What cannot be had is noted in it.`,
		Example: "  understudy support-bundle --out bundle.tar.gz",
		Args:    cobra.NoArgs,
	}
	name := cmd.Flags().String("out", "", "the `file` to write; understudy-TIME.tar.gz by default; - is standard output")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		now := time.Now()
		if *name == "" {
			*name = "understudy-" + now.Format("20060102-150405") + ".tar.gz"
		}
		var b bundle
		err := c.call(cmd.Context(), bundleTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			if _, err := admin.ListPairs(ctx, &adminv1.ListPairsRequest{}); err != nil {
				return err // nobody answers
			}
			b.gather(ctx, admin)
			return nil
		})
		if err != nil {
			return err
		}
		text, err := b.archive(now)
		if err != nil {
			return err
		}
		if *name == "-" {
			_, err := cmd.OutOrStdout().Write(text)
			return err
		}
		// It has addresses and names: it is for who asked for it.
		if err := os.WriteFile(*name, text, 0o600); err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %d kB\n", *name, len(b.files), len(text)/1000)
		return err
	}
	return cmd
}

const (
	bundleTimeout = 60 * time.Second
	// bundleLog is how much of the log is kept, in bytes.
	bundleLog = 16 << 20
	// bundleServices bounds the services that are diagnosed.
	bundleServices = 100
)

// bundle is what was gathered.
type bundle struct {
	files []bundled
	// missing says what could not be had.
	missing bytes.Buffer
}

type bundled struct {
	name string
	text []byte
}

// add keeps a message, or says why there is none.
func (b *bundle) add(name string, m proto.Message, err error) {
	var text bytes.Buffer
	if err == nil {
		err = writeAs(&text, asJSON, m)
	}
	b.addText(name+".json", text.Bytes(), err)
}

func (b *bundle) addText(name string, text []byte, err error) {
	if err != nil {
		fmt.Fprintf(&b.missing, "%s: %v\n", name, err)
		return
	}
	b.files = append(b.files, bundled{name, text})
}

func (b *bundle) gather(ctx context.Context, admin adminv1.AdminClient) {
	b.addText("version.txt", fmt.Appendf(nil, "understudy %s %s %s/%s\n", version.String(), runtime.Version(), runtime.GOOS, runtime.GOARCH), nil)
	pairs, err := admin.ListPairs(ctx, &adminv1.ListPairsRequest{})
	b.add("pairs", pairs, err)
	failovers, err := admin.ListFailovers(ctx, &adminv1.ListFailoversRequest{})
	b.add("failovers", failovers, err)
	switches, err := admin.ListSwitches(ctx, &adminv1.ListSwitchesRequest{})
	b.add("switches", switches, err)
	peers, err := admin.ListPeers(ctx, &adminv1.ListPeersRequest{})
	b.add("peers", peers, err)
	configuration, err := admin.GetConfiguration(ctx, &adminv1.GetConfigurationRequest{})
	b.add("configuration", configuration, err)
	services, err := admin.ListServices(ctx, &adminv1.ListServicesRequest{})
	b.add("services", services, err)
	for i, s := range services.GetServices() {
		if i == bundleServices {
			fmt.Fprintf(&b.missing, "diagnoses: only %d of %d services were diagnosed\n", bundleServices, len(services.GetServices()))
			break
		}
		d, err := admin.GetDiagnosis(ctx, &adminv1.GetDiagnosisRequest{Service: s.GetName()})
		b.add("diagnosis-"+s.GetName(), d, err)
	}
	metrics, err := admin.GetMetrics(ctx, &adminv1.GetMetricsRequest{})
	b.addText("metrics.txt", metrics.GetText(), err)
	text, err := exec.CommandContext(ctx, "journalctl", "--unit=understudy-controller", "--lines=10000", "--no-pager", "--output=short-iso-precise").Output()
	if err == nil && len(text) == 0 {
		err = errors.New("the journal has nothing of the unit understudy-controller")
	}
	b.addText("controller.log", text[max(0, len(text)-bundleLog):], err)
	if b.missing.Len() > 0 {
		b.addText("missing.txt", b.missing.Bytes(), nil)
	}
}

// archive is a gzipped tar with one folder.
func (b *bundle) archive(now time.Time) ([]byte, error) {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	t := tar.NewWriter(z)
	for _, f := range b.files {
		h := &tar.Header{Name: "understudy/" + f.name, Mode: 0o600, Size: int64(len(f.text)), ModTime: now}
		if err := t.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := t.Write(f.text); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
