// SPDX-License-Identifier: Apache-2.0

// Package gnmi is the controller's part in OpenConfig's gRPC Network Management
// Interface: the state of switches' ports comes in by it (Ports), and the controller's
// own state goes out (State). docs/gnmi.md has the paths.
package gnmi
