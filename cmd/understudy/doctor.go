// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	adminv1 "github.com/understudy-net/understudy/api/admin/v1"
)

func newDoctor(c *controller) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor SERVICE",
		Short: "Walk the path of a service, and name the first thing that is wrong",
		Long: `Walk the path of a service, from the routers to the application: is its address
announced, has the switch all entries, is a server active and does a backup hold the
connections, are agents attached, do applications answer, do agents listen, are their
queues long enough and clocks right, do heartbeats come through the data path, is
what servers say let through. The first thing that is wrong is
named, with what to do about it. The exit code is 5 if it is a failure.`,
		Example: "  understudy doctor web\n  understudy doctor web -o json",
		Args:    cobra.ExactArgs(1),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return c.call(cmd.Context(), callTimeout, func(ctx context.Context, admin adminv1.AdminClient) error {
			res, err := admin.GetDiagnosis(ctx, &adminv1.GetDiagnosisRequest{Service: args[0]})
			if err != nil {
				return err
			}
			if *output != asTable {
				err = writeAs(cmd.OutOrStdout(), *output, res)
			} else {
				err = writeDiagnosis(cmd.OutOrStdout(), res)
			}
			if first := worst(res); err == nil && first.GetResult() == adminv1.Check_RESULT_FAILED {
				err = withCode(exitUnwell, fmt.Errorf("service %s: %s: %s; %s", res.GetService(), first.GetName(), first.GetFound(), first.GetAdvice()))
			}
			return err
		})
	}
	return cmd
}

// worst is the first check that has failed, else the first with a warning, else nil.
func worst(d *adminv1.Diagnosis) *adminv1.Check {
	var warning *adminv1.Check
	for _, c := range d.GetChecks() {
		switch {
		case c.GetResult() == adminv1.Check_RESULT_FAILED:
			return c
		case c.GetResult() == adminv1.Check_RESULT_WARNING && warning == nil:
			warning = c
		}
	}
	return warning
}

func writeDiagnosis(out io.Writer, d *adminv1.Diagnosis) error {
	rows := [][]string{{"CHECK", "RESULT", "FOUND"}}
	for _, c := range d.GetChecks() {
		rows = append(rows, []string{c.GetName(), strings.ToLower(strings.TrimPrefix(c.GetResult().String(), "RESULT_")), c.GetFound()})
	}
	if err := table(out, rows); err != nil {
		return err
	}
	text := "all is well"
	switch w := worst(d); {
	case w.GetResult() == adminv1.Check_RESULT_WARNING:
		text = fmt.Sprintf("it works, but %s: %s; %s", w.GetName(), w.GetFound(), w.GetAdvice())
	case w != nil:
		text = fmt.Sprintf("begin with %s", w.GetName()) // the rest is the error
	}
	_, err := fmt.Fprintf(out, "\n%s\n", text)
	return err
}
