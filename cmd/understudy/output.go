// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// format is the value of a flag -o.
type format string

const (
	asTable format = "table"
	asJSON  format = "json"
	asYAML  format = "yaml"
)

var formats = []string{string(asTable), string(asJSON), string(asYAML)}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

func (f *format) Set(s string) error {
	if !slices.Contains(formats, s) {
		return fmt.Errorf("want %s, %s or %s", asTable, asJSON, asYAML)
	}
	*f = format(s)
	return nil
}

// outputFlag adds -o to a command.
func outputFlag(cmd *cobra.Command) *format {
	f := asTable
	cmd.Flags().VarP(&f, "output", "o", "table, for people, or json or yaml, for programs")
	cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	return &f
}

// writeAs writes a message for programs.
func writeAs(out io.Writer, f format, m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	if f == asYAML {
		return jsonToYAML(out, b)
	}
	// protojson varies its blanks on purpose.
	var buf bytes.Buffer
	if err := json.Indent(&buf, b, "", "  "); err != nil {
		return err
	}
	buf.WriteByte('\n')
	_, err = out.Write(buf.Bytes())
	return err
}

// writeOneOf writes a message that is one of many: JSON on a line of its own, or a
// document of YAML.
func writeOneOf(out io.Writer, f format, m proto.Message) error {
	if f == asYAML {
		if _, err := io.WriteString(out, "---\n"); err != nil {
			return err
		}
		return writeAs(out, f, m)
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return err
	}
	var buf bytes.Buffer
	if err := json.Compact(&buf, b); err != nil {
		return err
	}
	buf.WriteByte('\n')
	_, err = out.Write(buf.Bytes())
	return err
}

// writeValue writes a value of ours for programs.
func writeValue(out io.Writer, f format, v any) error {
	if f == asYAML {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		return jsonToYAML(out, b)
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// jsonToYAML writes the same keys in the same order.
func jsonToYAML(out io.Writer, text []byte) error {
	var doc yaml.Node // JSON is YAML
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return err
	}
	block(&doc)
	e := yaml.NewEncoder(out)
	e.SetIndent(2)
	return errors.Join(e.Encode(&doc), e.Close())
}

// block has mappings and lists be written over several lines, and texts without
// quotes where they need none.
func block(n *yaml.Node) {
	n.Style &^= yaml.FlowStyle
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		n.Style &^= yaml.DoubleQuotedStyle
	}
	for _, c := range n.Content {
		block(c)
	}
}

// table writes rows of cells, the first being the headings.
func table(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			if row[i] == "" {
				row[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// between is the time from one step to another; "" if one did not happen.
func between(from, to *timestamppb.Timestamp) string {
	if from == nil || to == nil {
		return ""
	}
	return ms(to.AsTime().Sub(from.AsTime()))
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", float64(d)/float64(time.Millisecond)) }
