// SPDX-License-Identifier: Apache-2.0

// Package pki is who is who between Understudy's programs: identities in X.509
// certificates, a small authority that issues them, and gRPC credentials that check
// them both ways.
//
// An identity is a URI in the certificate's subject alternative names, of the form
// that SPIFFE has (https://github.com/spiffe/spiffe, SPIFFE-ID.md section 2 and
// X509-SVID.md section 2), so that any authority that can issue those will do:
//
//	spiffe://DOMAIN/understudy/operator/alice     may do everything
//	spiffe://DOMAIN/understudy/viewer/wallboard   may look
//	spiffe://DOMAIN/understudy/server/server1     the agent of that server
//	spiffe://DOMAIN/understudy/controller/c1      a controller
//
// The domain is not looked at: whoever the authority vouches for is in.
package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Kind is what somebody is.
type Kind string

// The kinds.
const (
	Operator   Kind = "operator"
	Viewer     Kind = "viewer"
	Server     Kind = "server"
	Controller Kind = "controller"
)

// Kinds are all kinds, in the order in which people should read them.
var Kinds = []Kind{Operator, Viewer, Server, Controller}

// Identity is who a certificate says its holder is.
type Identity struct {
	Kind Kind
	// Name is at most 63 letters, digits, '-', '_' and '.'.
	Name string
}

func (id Identity) String() string { return string(id.Kind) + " " + id.Name }

const (
	scheme     = "spiffe"
	pathPrefix = "/understudy/"
	// Domain is the trust domain of what this package's authority issues.
	Domain = "understudy"
)

// URI is how a certificate says it.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: scheme, Host: Domain, Path: pathPrefix + string(id.Kind) + "/" + id.Name}
}

// check says what is wrong with an identity.
func (id Identity) check() error {
	if !slices.Contains(Kinds, id.Kind) {
		return fmt.Errorf("%q is no kind of identity; use one of %v", id.Kind, Kinds)
	}
	if id.Name == "" || len(id.Name) > 63 || strings.Trim(id.Name, nameRunes) != "" {
		return fmt.Errorf("%q is not a name; use at most 63 letters, digits, '-', '_' and '.'", id.Name)
	}
	return nil
}

const nameRunes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// ErrNobody: a certificate has no identity, or more than one.
var ErrNobody = errors.New("the certificate does not say whose it is; it needs one URI like " +
	"spiffe://DOMAIN/understudy/operator/NAME among its subject alternative names (see understudy certs)")

// Of reads the identity out of a certificate, which it does not verify. URIs of
// another form are passed over.
func Of(cert *x509.Certificate) (Identity, error) {
	var found []Identity
	for _, u := range cert.URIs {
		rest, ok := strings.CutPrefix(u.Path, pathPrefix)
		if !ok || u.Scheme != scheme || u.RawQuery != "" || u.Fragment != "" {
			continue
		}
		kind, name, _ := strings.Cut(rest, "/")
		found = append(found, Identity{Kind(kind), name})
	}
	if len(found) != 1 || found[0].check() != nil {
		return Identity{}, ErrNobody
	}
	return found[0], nil
}
