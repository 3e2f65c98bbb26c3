// SPDX-License-Identifier: Apache-2.0

package dataplane

import (
	"strings"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// StepKind says what a Step is about.
type StepKind uint8

// The kinds of steps. Those after StepAction are for the architecture.
const (
	StepState       StepKind = iota // the parser entered a state
	StepExtracted                   // the parser ended; Value says with how many bytes parsed
	StepParserError                 // the parser ended with the error Name
	StepChecksum                    // a checksum was wrong: Name
	StepTable                       // a table was applied
	StepCondition                   // a condition was evaluated
	StepAction                      // an action ran
	StepStart                       // a pass began: Name is ingress or egress, Value the port
	StepCopy                        // a copy was made: Name says why, Value is the port
	StepAgain                       // the packet begins again: Name says why
	StepDrop                        // the packet was dropped: Name says why
	StepEmit                        // the packet left by port Value
	StepDigest                      // a digest was sent: Name
)

var stepNames = [...]string{"state", "parsed", "parser error", "checksum", "table", "condition", "action",
	"start", "copy", "again", "drop", "emit", "digest"}

func (k StepKind) String() string { return stepNames[k] }

// A Step is one thing that happened to a packet.
type Step struct {
	Kind  StepKind
	Name  string // of the state, table, condition, action, error or checksum
	Value uint64
	Taken bool       // a condition: it held; a table: there was a hit
	Key   []KeyValue // a table's key
	Entry *Entry     // a table's entry that was hit
	// Member, if not nil, is the member of an action profile that was chosen; then
	// Action and Args are those of the member.
	Member *MemberAction
	Action *bmv2.Action // a table's action; nil: none
	Args   [][]byte     // its arguments
	// Source is the P4 source of a condition, of a drop, or of the action of a table
	// without a key, if it is known.
	Source string
}

// A KeyValue is one element of a table's key.
type KeyValue struct {
	Name  string
	Value []byte // (width+7)/8 bytes
}

// A Tracer is told of each step, while the packet is worked on. What the Step refers to
// may be kept, but not changed.
type Tracer func(c *Context, s *Step)

// SetTracer makes t follow the packet, until it is set to nil. Copies of the packet
// (CopyFrom) are followed too.
func (c *Context) SetTracer(t Tracer) { c.tracer = t }

// Traced tells whether there is a tracer.
func (c *Context) Traced() bool { return c.tracer != nil }

// Trace tells the tracer, if there is one.
func (c *Context) Trace(s *Step) {
	if c.tracer != nil {
		c.tracer(c, s)
	}
}

// parseTraced is Parse with a tracer.
func (e *Engine) parseTraced(c *Context) {
	s := e.parser.start
	for n := 0; s != nil; n++ {
		if n == maxParserSteps {
			c.ParserError = e.parser.errors.timeout
			break
		}
		c.Trace(&Step{Kind: StepState, Name: s.name})
		s = s.run(c, &e.parser.errors)
	}
	if c.ParserError != e.parser.errors.none {
		c.Trace(&Step{Kind: StepParserError, Name: e.errorName(c.ParserError), Value: uint64(c.ParserError)})
	}
	c.Trace(&Step{Kind: StepExtracted, Value: uint64(len(c.frame) - len(c.payload))})
}

func (e *Engine) errorName(code uint32) string {
	for _, x := range e.prog.Errors {
		if x.Value == code {
			return x.Name
		}
	}
	return "unknown"
}

// applyTraced is Apply with a tracer.
func (p *Pipeline) applyTraced(c *Context) {
	for n := p.start; n != nil && !c.Exit; {
		switch {
		case n.table != nil:
			n = n.table.applyTraced(c)
		case n.cond != nil:
			next, taken := n.no, n.cond(c)
			if taken {
				next = n.yes
			}
			c.Trace(&Step{Kind: StepCondition, Name: n.name, Taken: taken, Source: n.source})
			n = next
		default:
			s := &Step{Kind: StepAction, Name: n.act.def.Name, Action: n.act.def}
			n = n.run(c)
			c.Trace(s)
		}
	}
}

func (t *Table) applyTraced(c *Context) *node {
	s := &Step{Kind: StepTable, Name: t.def.Name}
	if t.keyBytes > 0 {
		s.Entry = t.lookup(c)
		// lookup may have cut the key down to a prefix.
		key := t.fillKey(c)
		for i := range t.keys {
			k := &t.keys[i]
			s.Key = append(s.Key, KeyValue{k.name(), append([]byte(nil), key[k.at:k.at+k.n]...)})
		}
	}
	s.Taken = s.Entry != nil
	b, m := t.choose(c, s.Entry)
	switch {
	case m != nil:
		s.Member, s.Action, s.Args = m, m.Action, m.Args
	case b.act != nil:
		s.Action, s.Args = b.act.def, b.Args
	}
	if len(t.keys) == 0 && s.Action != nil {
		s.Source = sourceOf(s.Action)
	}
	next := t.execute(c, s.Entry, b, m)
	c.Trace(s)
	return next
}

// sourceOf returns the statements that an action was compiled from.
func sourceOf(a *bmv2.Action) string {
	var list []string
	for _, p := range a.Primitives {
		if p.Source != "" && (len(list) == 0 || list[len(list)-1] != p.Source) {
			list = append(list, p.Source)
		}
	}
	return strings.Join(list, "; ")
}

// name is how the control plane knows the key element, or else how the program does.
func (k *keyPart) name() string {
	if k.def.Name != "" {
		return k.def.Name
	}
	switch e := k.def.Target.(type) {
	case *bmv2.FieldExpr:
		return e.String()
	case *bmv2.ValidExpr:
		return e.Header.Name + ".$valid$"
	}
	return ""
}
