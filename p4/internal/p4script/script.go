// SPDX-License-Identifier: Apache-2.0

// Package p4script reads unit tests of a P4 program: what is in the tables, a packet
// in, and the packets out, to the byte. It knows nothing of who runs them.
//
// A script is lines. A # begins a comment, == a case, and these are its steps:
//
//	let NAME VALUE                        from here on $NAME is VALUE
//	group ID PORT:RID ...                 a multicast group
//	insert TABLE KEY=VALUE ... -> ACTION PARAM=VALUE ...
//	modify TABLE KEY=VALUE ... -> ACTION PARAM=VALUE ...
//	delete TABLE KEY=VALUE ...
//	in PORT FRAME                         a frame comes in at a port
//	packet-out PORT FRAME                 the controller sends one
//	out PORT FRAME                        then this must leave (any number of such lines)
//	packet-in PORT [NAME=N ...] FRAME     and this must reach the controller, from that port,
//	                                      with this metadata (what is left out is 0)
//	drop REASON                           and that counter must count one
//	nothing                               and nothing else is said
//	count COUNTER INDEX N                 the packets that a counter has counted so far
//	wait DURATION                         time passes
//
// After in and packet-out, what leaves is compared with all lines up to the next of
// these or the end of the case: nothing more may leave or be counted. See Frame for
// how a frame is written.
package p4script

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// A Script is the cases of one file, in their order. What is before the first case is
// one without a name.
type Script []Case

// A Case is a named list of steps.
type Case struct {
	Name  string
	Steps []Step
}

// A Step is one line: *Group, *Entry, *Exchange, *Count or *Wait.
type Step interface{ line() int }

// Line is where a step stands in its file, from 1.
type Line int

func (l Line) line() int { return int(l) }

// LineOf returns where a step stands in its file.
func LineOf(s Step) int { return s.line() }

// A Group is a multicast group of (port, replication id) pairs.
type Group struct {
	Line
	ID       uint32
	Replicas [][2]uint32
}

// An Entry is a table entry to insert, modify or delete; the latter without an action.
// Values are int, or the text of an address or prefix.
type Entry struct {
	Line
	Verb, Table, Action string
	Match, Params       map[string]any
}

// An Exchange is a packet in and what must come of it.
type Exchange struct {
	Line
	// FromController says that In is a packet-out for the port.
	FromController bool
	Port           uint16
	In             []byte
	// Out is what leaves, by port, and Up what the controller is sent.
	Out map[uint16][][]byte
	Up  []PacketIn
	// Drop is why nothing leaves; empty if something does.
	Drop string

	answered bool
}

// A PacketIn is what the controller is sent. Metadata that is 0 is left out.
type PacketIn struct {
	Metadata map[string]uint64
	Frame    []byte
}

// A Count is what a counter must have counted.
type Count struct {
	Line
	Counter string
	Index   int
	Packets int64
}

// A Wait lets time pass.
type Wait struct {
	Line
	For time.Duration
}

// Parse reads a script.
func Parse(text string) (Script, error) {
	p := parser{names: map[string]string{}}
	s := Script{{}}
	n := 0
	for line := range strings.Lines(text) {
		n++
		words, err := p.words(line)
		if err == nil && len(words) > 0 {
			if words[0] == "==" {
				err = p.settled()
				p.last = nil
				s = append(s, Case{Name: strings.Join(words[1:], " ")})
			} else {
				err = p.step(Line(n), words, &s[len(s)-1])
			}
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := p.settled(); err != nil {
		return nil, fmt.Errorf("line %d: %w", n, err)
	}
	return s, nil
}

type parser struct {
	names map[string]string
	last  *Exchange
}

// settled is an error if nothing was said of what comes of the last packet.
func (p *parser) settled() error {
	if p.last != nil && !p.last.answered {
		return fmt.Errorf("what comes of the packet of line %d? say out, packet-in, drop or nothing", int(p.last.Line))
	}
	return nil
}

// words splits a line at blanks, outside of quotes, and puts in what names stand for.
func (p *parser) words(line string) ([]string, error) {
	var words []string
	for line = strings.TrimSpace(line); line != "" && line[0] != '#'; line = strings.TrimSpace(line) {
		if line[0] == '"' {
			q, err := strconv.QuotedPrefix(line)
			if err != nil {
				return nil, fmt.Errorf("a quote without its end: %s", line)
			}
			words, line = append(words, q), line[len(q):]
			continue
		}
		w := line
		if i := strings.IndexAny(line, " \t"); i >= 0 {
			w = line[:i]
		}
		line = line[len(w):]
		if before, name, ok := strings.Cut(w, "$"); ok {
			v, ok := p.names[name]
			if !ok {
				return nil, fmt.Errorf("$%s was not let be anything", name)
			}
			w = before + v
		}
		words = append(words, w)
	}
	return words, nil
}

func (p *parser) step(at Line, words []string, c *Case) error {
	verb, rest := words[0], words[1:]
	add := func(s Step) { c.Steps = append(c.Steps, s) }
	switch verb {
	case "let":
		if len(rest) != 2 {
			return fmt.Errorf("let NAME VALUE")
		}
		p.names[rest[0]] = rest[1]
	case "group":
		g := &Group{Line: at}
		for i, w := range rest {
			port, rid, ok := strings.Cut(w, ":")
			a, err := strconv.ParseUint(port, 10, 32)
			if err != nil || ok != (i > 0) {
				return fmt.Errorf("group ID PORT:RID ...")
			}
			if i == 0 {
				g.ID = uint32(a)
				continue
			}
			b, err := strconv.ParseUint(rid, 10, 32)
			if err != nil {
				return fmt.Errorf("replication id %q: %w", rid, err)
			}
			g.Replicas = append(g.Replicas, [2]uint32{uint32(a), uint32(b)})
		}
		if g.ID == 0 {
			return fmt.Errorf("group ID PORT:RID ...")
		}
		add(g)
	case "insert", "modify", "delete":
		e, err := entry(at, verb, rest)
		if err != nil {
			return err
		}
		add(e)
	case "in", "packet-out":
		if err := p.settled(); err != nil {
			return err
		}
		port, frame, err := portAndFrame(rest)
		if err != nil {
			return err
		}
		p.last = &Exchange{Line: at, FromController: verb == "packet-out", Port: port, In: frame,
			Out: map[uint16][][]byte{}}
		add(p.last)
	case "out", "packet-in", "drop", "nothing":
		if p.last == nil {
			return fmt.Errorf("%s without a packet in before it", verb)
		}
		return p.last.expect(verb, rest)
	case "count":
		if len(rest) != 3 {
			return fmt.Errorf("count COUNTER INDEX N")
		}
		index, err1 := strconv.Atoi(rest[1])
		n, err2 := strconv.ParseInt(rest[2], 10, 64)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("count COUNTER INDEX N")
		}
		add(&Count{Line: at, Counter: rest[0], Index: index, Packets: n})
	case "wait":
		if len(rest) != 1 {
			return fmt.Errorf("wait DURATION")
		}
		d, err := time.ParseDuration(rest[0])
		if err != nil {
			return err
		}
		add(&Wait{Line: at, For: d})
	default:
		return fmt.Errorf("%q is no step", verb)
	}
	return nil
}

func (x *Exchange) expect(verb string, rest []string) error {
	if x.Drop != "" || x.answered && (verb == "drop" || verb == "nothing") {
		return fmt.Errorf("%s: something else was said of the packet of line %d", verb, int(x.Line))
	}
	x.answered = true
	switch verb {
	case "drop":
		if x.Drop = strings.Join(rest, " "); x.Drop == "" {
			return fmt.Errorf("drop REASON")
		}
	case "out":
		port, frame, err := portAndFrame(rest)
		if err != nil {
			return err
		}
		x.Out[port] = append(x.Out[port], frame)
	case "packet-in":
		up, err := packetIn(rest)
		if err != nil {
			return err
		}
		x.Up = append(x.Up, up)
	}
	return nil
}

func packetIn(words []string) (PacketIn, error) {
	p := PacketIn{Metadata: map[string]uint64{}}
	if len(words) > 0 {
		words = append([]string{"ingress_port=" + words[0]}, words[1:]...)
	}
	for len(words) > 0 {
		name, value, ok := strings.Cut(words[0], "=")
		if !ok {
			break
		}
		n, err := strconv.ParseUint(value, 0, 64)
		if err != nil {
			return p, fmt.Errorf("%s: %w", name, err)
		}
		if n != 0 {
			p.Metadata[name] = n
		}
		words = words[1:]
	}
	var err error
	p.Frame, err = Frame(words)
	return p, err
}

func portAndFrame(words []string) (uint16, []byte, error) {
	if len(words) == 0 {
		return 0, nil, fmt.Errorf("PORT FRAME")
	}
	port, err := strconv.ParseUint(words[0], 10, 16)
	if err != nil {
		return 0, nil, fmt.Errorf("port %q: %w", words[0], err)
	}
	frame, err := Frame(words[1:])
	return uint16(port), frame, err
}

func entry(at Line, verb string, words []string) (*Entry, error) {
	if len(words) == 0 {
		return nil, fmt.Errorf("%s TABLE KEY=VALUE ... -> ACTION PARAM=VALUE ...", verb)
	}
	e := &Entry{Line: at, Verb: verb, Table: words[0], Match: map[string]any{}, Params: map[string]any{}}
	to := e.Match
	for i := 1; i < len(words); i++ {
		if words[i] == "->" && i+1 < len(words) {
			e.Action, to = words[i+1], e.Params
			i++
			continue
		}
		key, value, ok := strings.Cut(words[i], "=")
		if !ok {
			return nil, fmt.Errorf("%q is not KEY=VALUE", words[i])
		}
		if n, err := strconv.ParseInt(value, 0, 64); err == nil {
			to[key] = int(n)
		} else {
			to[key] = value
		}
	}
	if (e.Action == "") != (verb == "delete") {
		return nil, fmt.Errorf("an entry to insert or modify has an action, one to delete has none")
	}
	return e, nil
}
