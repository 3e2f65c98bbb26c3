// SPDX-License-Identifier: Apache-2.0

// Package version says which build this is.
package version

import (
	"runtime/debug"
	"strings"
)

// Set by the linker: -ldflags "-X .../internal/version.set=v1.2.3".
var set string

// String returns the version that the build was given, or what Go recorded of the
// source it was made from.
func String() string {
	if set != "" {
		return set
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value
		case "vcs.modified":
			if s.Value == "true" {
				dirty = "+changes"
			}
		}
	}
	if revision == "" {
		return strings.Trim(info.Main.Version, "()")
	}
	return revision[:min(12, len(revision))] + dirty
}
