// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-net/understudy/internal/pki"
)

func newCerts() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "certs",
		Short: "Make a small authority, and certificates for programs and people",
		Long: `Make a small authority in a folder of this host, and let it issue certificates for
the controller, for each server's agent, and for operators and viewers. Any other
authority will do as well: what a certificate must say is in docs/security.md.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newCertsInit(), newCertsIssue(), newCertsShow())
	return cmd
}

// certsDir is where the authority is unless it is said otherwise.
const certsDir = "/etc/understudy/pki"

func dirFlag(cmd *cobra.Command) *string {
	return cmd.Flags().String("dir", certsDir, "the authority's `folder`")
}

func newCertsInit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make an authority",
		Long: `Make an authority: ca.crt, which everybody gets, and ca.key, which stays where it is.
One that is there already is never replaced.`,
		Example: "  understudy certs init --dir pki",
		Args:    cobra.NoArgs,
	}
	dir := dirFlag(cmd)
	name := cmd.Flags().String("name", "Understudy", "what it is called")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		a, err := pki.CreateAuthority(*dir, *name, time.Now)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: good until %s\n", filepath.Join(*dir, pki.AuthorityCert), day(a.Cert.NotAfter))
		return err
	}
	return cmd
}

func newCertsIssue() *cobra.Command {
	kinds := make([]string, len(pki.Kinds))
	for i, k := range pki.Kinds {
		kinds[i] = string(k)
	}
	cmd := &cobra.Command{
		Use:   "issue KIND NAME",
		Short: "Issue a certificate: for an operator, a viewer, a server or a controller",
		Long: `Issue a certificate and its key: NAME.crt and NAME.key. KIND is operator (may do
everything), viewer (may look), server (the agent of that server; NAME as in the
controller's configuration) or controller (with --host for every name and address
that it is reached by). To renew one, issue it again: programs take it up without a
restart.`,
		Example: `  understudy certs issue controller c1 --host c1.example.net --host 172.31.255.1
  understudy certs issue server server1 --out /etc/understudy/tls
  understudy certs issue operator alice`,
		Args:      cobra.ExactArgs(2),
		ValidArgs: kinds,
	}
	dir := dirFlag(cmd)
	out := cmd.Flags().String("out", "", "the `folder` to write to; the authority's by default")
	hosts := cmd.Flags().StringSlice("host", nil, "a `name` or address that a controller is reached by; may be repeated")
	life := cmd.Flags().Duration("ttl", 0, "how long it is good for; 8760h for programs, 2160h for people by default")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !slices.Contains(kinds, args[0]) {
			return fmt.Errorf("%q is no kind of certificate; use one of %v", args[0], kinds)
		}
		a, err := pki.OpenAuthority(*dir, time.Now)
		if err != nil {
			return err
		}
		if *out == "" {
			*out = *dir
		}
		base := filepath.Join(*out, filepath.Base(args[1]))
		cert, err := a.Issue(pki.Request{Identity: pki.Identity{Kind: pki.Kind(args[0]), Name: args[1]}, Hosts: *hosts, Life: *life}, base)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s.crt, %s.key: %s %s, good until %s\n", base, base, args[0], args[1], day(cert.NotAfter))
		return err
	}
	return cmd
}

func newCertsShow() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "show FILE...",
		Short:   "Say whose certificates are, and until when they are good",
		Long:    "Say whose each certificate is, what it is reached by, and until when it is good.",
		Example: "  understudy certs show alice.crt",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			rows := [][]string{{"FILE", "WHOSE", "HOSTS", "UNTIL"}}
			for _, file := range args {
				cert, err := pki.ReadCertificate(file)
				if err != nil {
					return err
				}
				whose := "nobody"
				if id, err := pki.Of(cert); err == nil {
					whose = id.String()
				} else if cert.IsCA {
					whose = "authority " + cert.Subject.CommonName
				}
				hosts := slices.Clone(cert.DNSNames)
				for _, ip := range cert.IPAddresses {
					hosts = append(hosts, ip.String())
				}
				until := day(cert.NotAfter)
				if time.Now().After(cert.NotAfter) {
					until += " (over)"
				}
				rows = append(rows, []string{file, whose, strings.Join(hosts, ", "), until})
			}
			return table(cmd.OutOrStdout(), rows)
		},
	}
	return cmd
}

func day(t time.Time) string { return t.Local().Format(time.DateTime) }
