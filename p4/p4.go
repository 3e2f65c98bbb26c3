// SPDX-License-Identifier: Apache-2.0

// Package p4 carries the compiled data plane: what p4c made of the program in
// src/, the names and ids in it as Go constants, and the means to tell that they
// belong together.
package p4

import (
	_ "embed"
	"fmt"

	p4configv1 "github.com/p4lang/p4runtime/go/p4/config/v1"
	"google.golang.org/protobuf/encoding/prototext"
)

// The program is compiled with p4c's bmv2 back end (`make p4`). names.go and the
// digests of sources and results are made in the same step; tests hold them together.
//
//go:generate go run ./internal/genp4

//go:embed build/understudy.json
var bmv2JSON []byte

//go:embed build/understudy.p4info.txtpb
var p4Info []byte

// JSON returns the program as bmv2 takes it: the P4Runtime device config. The
// caller must not change it.
func JSON() []byte { return bmv2JSON }

// Info returns the program's P4Info, a new copy at each call.
func Info() *p4configv1.P4Info {
	info := new(p4configv1.P4Info)
	if err := prototext.Unmarshal(p4Info, info); err != nil {
		// It is compiled in and tested: this cannot happen in a released binary.
		panic(fmt.Sprintf("embedded P4Info: %v", err))
	}
	return info
}
