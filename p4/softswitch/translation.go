// SPDX-License-Identifier: Apache-2.0

package softswitch

import (
	"fmt"

	p4config "github.com/p4lang/p4runtime/go/p4/config/v1"

	"github.com/understudy-net/understudy/p4/bmv2"
)

// Types that the P4 program marks with @p4runtime_translation have another width for
// controllers than in the program (P4Runtime 1.5, section 18.1). Values are not
// translated here, as ports, for which this is meant, have the same numbers on both
// sides: a value must fit what the program has.

// translated returns the translation of a named type, or nil if there is none.
func translated(t *p4config.P4NamedType, info *p4config.P4TypeInfo) *p4config.P4NewTypeTranslation {
	return info.GetNewTypes()[t.GetName()].GetTranslatedType()
}

// programWidth checks the width that a P4Info gives a value, and returns the one that
// the program has. Some types, such as error, have none in a P4Info.
func programWidth(given, have int, t *p4config.P4NamedType, info *p4config.P4TypeInfo) (int, error) {
	x := translated(t, info)
	switch {
	case given == have, given == 0 && t == nil, x.GetSdnBitwidth() > 0 && int(x.GetSdnBitwidth()) == given:
		return have, nil
	case x.GetSdnString() != nil:
		return 0, fmt.Errorf("type %q is a string for controllers, which is %w", t.GetName(), bmv2.ErrUnsupported)
	}
	return 0, fmt.Errorf("%d bits, the program has %d", given, have)
}
