// SPDX-License-Identifier: Apache-2.0

package v1model

import (
	"fmt"

	"github.com/understudy-net/understudy/p4/dataplane"
)

// trace follows the packets of a Worker. Without a function to tell it does nothing.
type trace struct {
	tell func(*dataplane.Step)
	hook dataplane.Tracer
	// The drop port as egress_spec: whether it is there, and who set it.
	set   bool
	cause string
}

// SetTracer makes tell hear each step of the packets that the Worker processes from
// now on, on the goroutine that calls Process; nil ends that. It costs nothing when
// off.
func (w *Worker) SetTracer(tell func(*dataplane.Step)) {
	w.trace = trace{tell: tell}
	if tell != nil {
		w.trace.hook = w.follow
	}
	for _, c := range []*dataplane.Context{w.in, w.copy, w.clone} {
		c.SetTracer(w.trace.hook)
	}
}

// SetDry makes the packets that the Worker processes from now on leave no trace in the
// switch, as dataplane.Context.SetDry says; digests are not sent.
func (w *Worker) SetDry(dry bool) {
	w.dry = dry
	for _, c := range []*dataplane.Context{w.in, w.copy, w.clone} {
		c.SetDry(dry)
	}
}

// Trace processes one frame as Process does, and returns all steps of it.
func (s *Switch) Trace(port uint16, frame []byte, emit func(port uint16, data []byte)) []*dataplane.Step {
	var steps []*dataplane.Step
	w := s.take()
	w.SetTracer(func(step *dataplane.Step) { steps = append(steps, step) })
	w.Begin()
	w.Process(port, frame, func(f *Frame) { emit(f.Port, f.Data) })
	w.End()
	w.SetTracer(nil)
	s.mu.Lock()
	s.idle = append(s.idle, w)
	s.mu.Unlock()
	return steps
}

// follow is what the engine tells; it notes who decides to drop.
func (w *Worker) follow(c *dataplane.Context, step *dataplane.Step) {
	t := &w.trace
	if step.Kind == dataplane.StepTable || step.Kind == dataplane.StepAction {
		drop := w.s.std.egressSpec.Get(c) == w.s.dropPort
		if drop && !t.set {
			t.cause = "set by table " + step.Name
			if step.Action != nil && step.Action.Name != step.Name {
				t.cause = fmt.Sprintf("set by action %s of table %s", step.Action.Name, step.Name)
			}
			if step.Source != "" {
				t.cause = "set at " + step.Source
			}
		}
		t.set = drop
	}
	t.tell(step)
}

func (t *trace) on() bool { return t.tell != nil }

func (t *trace) tracer() dataplane.Tracer { return t.hook }

func (t *trace) step(s *dataplane.Step) {
	if t.tell != nil {
		t.tell(s)
	}
}

func (t *trace) start(pipeline string, port uint16) {
	if t.tell != nil {
		t.set, t.cause = false, ""
		t.tell(&dataplane.Step{Kind: dataplane.StepStart, Name: pipeline, Value: uint64(port)})
	}
}

func (t *trace) copied(why string, port uint16) {
	if t.tell != nil {
		t.tell(&dataplane.Step{Kind: dataplane.StepCopy, Name: why, Value: uint64(port)})
	}
}

func (t *trace) note(what string, n uint64) {
	if t.tell != nil {
		t.tell(&dataplane.Step{Kind: dataplane.StepCopy, Name: fmt.Sprintf("none: %s %d", what, n)})
	}
}

func (t *trace) again(why string) {
	if t.tell != nil {
		t.tell(&dataplane.Step{Kind: dataplane.StepAgain, Name: why})
	}
}

func (t *trace) emitted(port uint16) {
	if t.tell != nil {
		t.tell(&dataplane.Step{Kind: dataplane.StepEmit, Value: uint64(port)})
	}
}

// dropped tells of a packet whose egress_spec is the drop port.
func (t *trace) dropped(pipeline string) {
	if t.tell == nil {
		return
	}
	why := "egress_spec is the drop port at the end of " + pipeline
	if t.cause != "" {
		why += ", " + t.cause
	}
	t.tell(&dataplane.Step{Kind: dataplane.StepDrop, Name: why, Source: t.cause})
}

func (t *trace) drop(format string, args ...any) {
	if t.tell != nil {
		t.tell(&dataplane.Step{Kind: dataplane.StepDrop, Name: fmt.Sprintf(format, args...)})
	}
}
