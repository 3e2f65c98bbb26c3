// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"bytes"
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-net/understudy/p4/bmv2"
	"github.com/understudy-net/understudy/p4/dataplane"
	"github.com/understudy-net/understudy/p4/v1model"
)

// A pipeline is a program that packets go through, with its state and with what
// P4Runtime calls its parts. All but the state is immutable.
type pipeline struct {
	config  *p4v1.ForwardingPipelineConfig
	schema  *schema
	sw      *v1model.Switch
	digests map[string]*digest // by the program's name
	env     *environment
}

// A program is a configuration that was read and whose two halves belong together. It
// is immutable.
type program struct {
	config *p4v1.ForwardingPipelineConfig
	schema *schema
	prog   *bmv2.Program
}

// readProgram reads a configuration.
func readProgram(config *p4v1.ForwardingPipelineConfig) (*program, error) {
	if config.GetP4Info() == nil {
		return nil, fmt.Errorf("the configuration has no P4Info")
	}
	prog, err := bmv2.Load(deviceJSON(config.GetP4DeviceConfig()))
	if err != nil {
		return nil, fmt.Errorf("device configuration: %w", err)
	}
	sch, err := newSchema(config.GetP4Info(), prog)
	if err != nil {
		return nil, err
	}
	return &program{config, sch, prog}, nil
}

// start makes a pipeline with the program's own state.
func (x *program) start(env *environment) (*pipeline, error) {
	p := &pipeline{config: x.config, schema: x.schema, digests: map[string]*digest{}, env: env}
	for _, ds := range x.schema.digests.list {
		p.digests[ds.list] = &digest{schema: ds, send: env.digest, wake: env.timers, now: env.now}
	}
	var err error
	p.sw, err = v1model.New(x.prog, v1model.Options{DropPort: env.dropPort, Digest: func(m *v1model.Digest) {
		if d := p.digests[m.List.Name]; d != nil {
			d.add(m)
		}
	}, Log: env.log})
	if err != nil {
		return nil, fmt.Errorf("device configuration: %w", err)
	}
	return p, nil
}

func newPipeline(config *p4v1.ForwardingPipelineConfig, env *environment) (*pipeline, error) {
	x, err := readProgram(config)
	if err != nil {
		return nil, err
	}
	return x.start(env)
}

// deviceJSON returns the bmv2 JSON of a device configuration. It is the JSON
// itself, or, from controllers that follow the old p4.tmp.P4DeviceConfig, field 3
// of that message.
func deviceJSON(b []byte) []byte {
	if bytes.HasPrefix(bytes.TrimLeft(b, " \t\r\n"), []byte("{")) {
		return b
	}
	for rest := b; len(rest) > 0; {
		num, typ, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return b
		}
		rest = rest[n:]
		if num == 3 && typ == protowire.BytesType {
			if data, n := protowire.ConsumeBytes(rest); n >= 0 {
				return data
			}
			return b
		}
		if n = protowire.ConsumeFieldValue(num, typ, rest); n < 0 {
			return b
		}
		rest = rest[n:]
	}
	return b
}

// same tells whether a configuration is the one that is running, its cookie aside.
func (p *pipeline) same(config *p4v1.ForwardingPipelineConfig) bool {
	return proto.Equal(p.config.GetP4Info(), config.GetP4Info()) &&
		bytes.Equal(p.config.GetP4DeviceConfig(), config.GetP4DeviceConfig())
}

// withCookie returns the pipeline with another cookie and the same state.
func (p *pipeline) withCookie(c *p4v1.ForwardingPipelineConfig_Cookie) *pipeline {
	next := *p
	next.config = &p4v1.ForwardingPipelineConfig{P4Info: p.config.GetP4Info(),
		P4DeviceConfig: p.config.GetP4DeviceConfig(), Cookie: c}
	return &next
}

func (p *pipeline) table(ts *tableSchema) *dataplane.Table { return p.sw.Engine().Table(ts.name) }

// LoadConfig makes a pipeline configuration from the two files that p4c writes:
// the bmv2 JSON and the P4Info as text or in binary form. Whether they belong
// together is checked by New.
func LoadConfig(deviceConfig, p4info []byte) (*p4v1.ForwardingPipelineConfig, error) {
	info := &p4config.P4Info{}
	if err := prototext.Unmarshal(p4info, info); err != nil {
		binary := &p4config.P4Info{}
		if proto.Unmarshal(p4info, binary) != nil || len(binary.GetTables())+len(binary.GetActions()) == 0 {
			return nil, fmt.Errorf("P4Info: %w", err)
		}
		info = binary
	}
	if proto.Size(info) == 0 {
		return nil, fmt.Errorf("P4Info: the file is empty")
	}
	return &p4v1.ForwardingPipelineConfig{P4Info: info, P4DeviceConfig: deviceConfig}, nil
}
