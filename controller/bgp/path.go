// SPDX-License-Identifier: Apache-2.0

package bgp

import (
	gobgp "github.com/osrg/gobgp/v3/api"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// originIGP is that of RFC 4271, section 5.1.1.
const originIGP = 0

// pathOf is a route in GoBGP's words. It has no AS path:
// GoBGP makes one for each peer.
func pathOf(r Route, withdraw bool) (*gobgp.Path, error) {
	family := &gobgp.Family{Afi: gobgp.Family_AFI_IP, Safi: gobgp.Family_SAFI_UNICAST}
	if r.Prefix.Addr().Is6() {
		family.Afi = gobgp.Family_AFI_IP6
	}
	nlri, err := anypb.New(&gobgp.IPAddressPrefix{Prefix: r.Prefix.Addr().String(), PrefixLen: uint32(r.Prefix.Bits())})
	if err != nil {
		return nil, err
	}
	attributes := []proto.Message{&gobgp.OriginAttribute{Origin: originIGP}}
	if r.Prefix.Addr().Is4() {
		attributes = append(attributes, &gobgp.NextHopAttribute{NextHop: r.NextHop.String()})
	} else {
		attributes = append(attributes, &gobgp.MpReachNLRIAttribute{
			Family: family, NextHops: []string{r.NextHop.String()}, Nlris: []*anypb.Any{nlri},
		})
	}
	if r.MED != nil {
		attributes = append(attributes, &gobgp.MultiExitDiscAttribute{Med: *r.MED})
	}
	if r.LocalPreference != nil {
		attributes = append(attributes, &gobgp.LocalPrefAttribute{LocalPref: *r.LocalPreference})
	}
	if len(r.Communities) > 0 {
		a := &gobgp.CommunitiesAttribute{}
		for _, c := range r.Communities {
			a.Communities = append(a.Communities, uint32(c))
		}
		attributes = append(attributes, a)
	}
	if len(r.LargeCommunities) > 0 {
		a := &gobgp.LargeCommunitiesAttribute{}
		for _, c := range r.LargeCommunities {
			a.Communities = append(a.Communities, &gobgp.LargeCommunity{GlobalAdmin: c[0], LocalData1: c[1], LocalData2: c[2]})
		}
		attributes = append(attributes, a)
	}
	p := &gobgp.Path{Family: family, Nlri: nlri, IsWithdraw: withdraw}
	for _, a := range attributes {
		any, err := anypb.New(a)
		if err != nil {
			return nil, err
		}
		p.Pattrs = append(p.Pattrs, any)
	}
	return p, nil
}
