// SPDX-License-Identifier: Apache-2.0

package softswitch_test

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"
	p4v1 "github.com/p4lang/p4runtime/go/p4/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-net/understudy/p4/softswitch"
	"github.com/understudy-net/understudy/p4/softswitch/switchtest"
)

// widen makes all ports of a P4Info, by the names of fields, values of 32 bits, as a
// program with @p4runtime_translation has them.
func widen(i *p4config.P4Info, names ...string) {
	is := func(name string) bool {
		for _, n := range names {
			if n == name {
				return true
			}
		}
		return false
	}
	typ := &p4config.P4NamedType{Name: "port_t"}
	i.TypeInfo = &p4config.P4TypeInfo{Structs: i.GetTypeInfo().GetStructs(), NewTypes: map[string]*p4config.P4NewTypeSpec{"port_t": {
		Representation: &p4config.P4NewTypeSpec_TranslatedType{TranslatedType: &p4config.P4NewTypeTranslation{
			SdnType: &p4config.P4NewTypeTranslation_SdnBitwidth{SdnBitwidth: 32}}}}}}
	for _, a := range i.Actions {
		for _, p := range a.Params {
			if is(p.Name) {
				p.Bitwidth, p.TypeName = 32, typ
			}
		}
	}
	for _, t := range i.Tables {
		for _, f := range t.MatchFields {
			if is(f.Name) {
				f.Bitwidth, f.TypeName = 32, typ
			}
		}
	}
	for _, h := range i.ControllerPacketMetadata {
		for _, f := range h.Metadata {
			if is(f.Name) {
				f.Bitwidth, f.TypeName = 32, typ
			}
		}
	}
	for _, m := range i.GetTypeInfo().GetStructs()["learned_t"].GetMembers() {
		if is(m.Name) {
			m.TypeSpec = &p4config.P4DataTypeSpec{TypeSpec: &p4config.P4DataTypeSpec_NewType{NewType: typ}}
		}
	}
}

// Section 18.1: values of translated types are those of the program, if they fit.
func TestTranslatedTypes(t *testing.T) {
	o := startObjects(t, func(i *p4config.P4Info) { widen(i, "port", "hdr.ask.key") })
	entry := o.Entry("initial", match{"hdr.ask.key": switchtest.Ternary{Value: 0x30, Mask: 0xffff}}, 9, "answer", args{"port": 2, "result": 5})
	o.Write(insert, switchtest.TableEntity(entry))
	expect(t, "entry", o.answer(ask(askInitial, 0, 0x30, 0)), "2 5")
	entry = o.Entry("initial", match{"hdr.ask.key": switchtest.Ternary{Value: 0x31, Mask: 0xffff}}, 9, "answer", args{"port": 512, "result": 5})
	o.wantCode("a port of 10 bits", insert, switchtest.TableEntity(entry), codes.OutOfRange)
	entry = o.Entry("initial", match{"hdr.ask.key": switchtest.Ternary{Value: 0x10000, Mask: 0x10000}}, 9, "answer", args{"port": 2, "result": 5})
	o.wantCode("a key of 17 bits", insert, switchtest.TableEntity(entry), codes.OutOfRange)
	o.Write(insert, digest(o.id("learned_t"), nil))
	o.Send(3, ask(askDigest, 0, 0, 7))
	if got := o.Stream().GetDigest().GetData()[0].GetStruct().GetMembers()[0].GetBitstring(); string(got) != "\x03" {
		t.Errorf("the port of a digest: %x", got)
	}

	// In controller headers the program's layout counts.
	js, info := testProgram(t)
	config := loadConfig(t, js, info)
	widen(config.P4Info, "ingress_port", "egress_port")
	h := switchtest.Start(t, softswitch.Config{Pipeline: config})
	h.Info = config.P4Info
	h.Insert("exact_table", match{"hdr.query.narrow": 1, "hdr.query.word": 1}, "punt", args{"reason": 0x1234})
	h.Send(5, query(1, 1, 1, "payload"))
	_, meta := h.PacketIn()
	if diff := cmp.Diff(map[string]uint64{"ingress_port": 5, "reason": 0x1234, "pad": 0}, meta); diff != "" {
		t.Errorf("PacketIn metadata, -want +got:\n%s", diff)
	}
	if out := h.PacketOut(query(1, 1, 1, ""), args{"egress_port": 6}); out.Port != 6 {
		t.Errorf("PacketOut left at port %d", out.Port)
	}

	// Strings cannot be numbers of the program.
	config = objectsProgram(t)
	widen(config.P4Info, "hdr.ask.key")
	config.P4Info.TypeInfo.NewTypes["port_t"].GetTranslatedType().SdnType = &p4config.P4NewTypeTranslation_SdnString_{}
	config.P4Info.Tables[0].MatchFields[0].Bitwidth = 0
	_, err := o.Client.SetForwardingPipelineConfig(context.Background(), &p4v1.SetForwardingPipelineConfigRequest{
		DeviceId: switchtest.DeviceID, ElectionId: switchtest.Election(), Action: p4v1.SetForwardingPipelineConfigRequest_VERIFY, Config: config})
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `"port_t" is a string for controllers`) {
		t.Errorf("a string: %v", err)
	}
}
