// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"encoding/hex"
	"fmt"
	"strings"

	switchv1 "github.com/understudy-net/understudy/api/switch/v1"
)

// FormatTrace turns a trace into lines for people. Numbers are hexadecimal, but ports
// and lengths.
func FormatTrace(t *switchv1.PacketTrace) string {
	var b strings.Builder
	line := func(indent int, kind, format string, args ...any) {
		fmt.Fprintf(&b, "%*s%-9s %s\n", 2*indent, "", kind, fmt.Sprintf(format, args...))
	}
	if n := t.GetMissed(); n > 0 {
		fmt.Fprintf(&b, "(%d packets were missed)\n", n)
	}
	frame := hex.EncodeToString(t.GetFrame())
	if int(t.GetLength()) > len(t.GetFrame()) {
		frame += "..."
	}
	fmt.Fprintf(&b, "%s port %d, %d bytes: %s\n", t.GetTime().AsTime().Local().Format("15:04:05.000000"), t.GetPort(), t.GetLength(), frame)
	var states []string
	for _, s := range t.GetSteps() {
		switch s := s.GetStep().(type) {
		case *switchv1.Step_Begin:
			line(1, s.Begin.GetPipeline(), "port %d", s.Begin.GetPort())
		case *switchv1.Step_ParserState:
			states = append(states, s.ParserState.GetName())
		case *switchv1.Step_Parsed:
			text := fmt.Sprintf("%s: %d bytes", strings.Join(states, ", "), s.Parsed.GetBytes())
			if e := s.Parsed.GetError(); e != "" {
				text += ", error " + e
			}
			line(2, "parser", "%s", text)
			states = nil
		case *switchv1.Step_BadChecksum:
			line(2, "checksum", "%s is wrong", s.BadChecksum.GetName())
		case *switchv1.Step_Table:
			if source := s.Table.GetSource(); source != "" {
				line(2, "do", "%s", oneLine(source))
			} else {
				line(2, "table", "%s", tableText(s.Table))
			}
		case *switchv1.Step_Condition:
			source := s.Condition.GetSource()
			if source == "" {
				source = s.Condition.GetName()
			}
			line(2, "if", "%s: %v", oneLine(source), s.Condition.GetHolds())
		case *switchv1.Step_Action:
			line(2, "action", "%s", s.Action.GetName())
		case *switchv1.Step_Copy:
			if strings.HasPrefix(s.Copy.GetReason(), "none: ") {
				line(2, "copy", "%s", s.Copy.GetReason())
			} else {
				line(2, "copy", "%s, to port %d", s.Copy.GetReason(), s.Copy.GetPort())
			}
		case *switchv1.Step_BeginAgain:
			line(2, "again", "%s", s.BeginAgain.GetReason())
		case *switchv1.Step_Drop:
			line(2, "DROP", "%s", s.Drop.GetReason())
		case *switchv1.Step_Leave:
			line(2, "out", "port %d, %d bytes", s.Leave.GetPort(), s.Leave.GetLength())
		case *switchv1.Step_Digest:
			line(2, "digest", "%s", s.Digest.GetName())
		}
	}
	if t.GetTruncated() {
		line(2, "...", "there was more")
	}
	return b.String()
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func tableText(t *switchv1.TableApply) string {
	var b strings.Builder
	b.WriteString(t.GetTable())
	for _, k := range t.GetKey() {
		fmt.Fprintf(&b, " %s=%#x", k.GetName(), short(k.GetValue()))
	}
	switch e := t.GetEntry(); {
	case e != nil:
		b.WriteString(" -> entry")
		for _, m := range e.GetMatch() {
			b.WriteString(" " + matchText(m))
		}
		if e.GetPriority() != 0 {
			fmt.Fprintf(&b, " priority %d", e.GetPriority())
		}
	case len(t.GetKey()) > 0:
		b.WriteString(" -> no entry")
	}
	if t.GetAction() == "" {
		b.WriteString(": no action")
		return b.String()
	}
	var args []string
	for _, v := range t.GetArguments() {
		args = append(args, fmt.Sprintf("%s=%#x", v.GetName(), short(v.GetValue())))
	}
	fmt.Fprintf(&b, ": %s(%s)", t.GetAction(), strings.Join(args, ", "))
	if t.GetFromProfile() {
		b.WriteString(" by its action profile")
	}
	return b.String()
}

func matchText(m *switchv1.Match) string {
	switch k := m.GetKind().(type) {
	case *switchv1.Match_Prefix:
		return fmt.Sprintf("%#x/%d", short(k.Prefix.GetValue()), k.Prefix.GetLength())
	case *switchv1.Match_Masked:
		if isZero(k.Masked.GetMask()) {
			return "*"
		}
		return fmt.Sprintf("%#x&&&%#x", short(k.Masked.GetValue()), short(k.Masked.GetMask()))
	case *switchv1.Match_Range:
		return fmt.Sprintf("%#x..%#x", short(k.Range.GetLow()), short(k.Range.GetHigh()))
	}
	return fmt.Sprintf("%#x", short(m.GetExact()))
}

// short takes leading zeros away.
func short(b []byte) []byte { return canonical(b) }
