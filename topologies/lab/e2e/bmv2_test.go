// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"os/exec"
	"testing"

	"github.com/understudy-net/understudy/topologies"
)

// switchVariable is what the CLI takes for --switch.
const switchVariable = "UNDERSTUDY_SWITCH"

// TestOnBMv2 runs the package's other tests once more, with bmv2's simple_switch_grpc as
// the switch, where that is on the PATH. With UNDERSTUDY_SWITCH=bmv2 all tests do so by
// themselves.
func TestOnBMv2(t *testing.T) {
	needRoot(t)
	program := topologies.BMv2.Program()
	if _, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not on the PATH", program)
	}
	if os.Getenv(switchVariable) != "" {
		t.Skipf("%s is set: all tests run on that switch", switchVariable)
	}
	t.Setenv(switchVariable, string(topologies.BMv2))
	for _, tc := range []struct {
		name string
		test func(*testing.T)
	}{
		{"ActiveServerDies", TestActiveServerDies},
		{"BackupDies", TestBackupDies},
		{"LossTowardTheBackup", TestLossTowardTheBackup},
		{"SwitchOverUnderLargeReplies", TestSwitchOverUnderLargeReplies},
		{"Rounds", TestRounds},
		{"RoundsWithoutAdoption", TestRoundsWithoutAdoption},
		{"AdoptInTransfer", TestAdoptInTransfer},
		{"AgentRestarts", TestAgentRestarts},
		{"ControllerDies", TestControllerDies},
		{"SwitchRestarts", TestSwitchRestarts},
		{"CutLinkIsToldByTheSwitch", TestCutLinkIsToldByTheSwitch},
		{"DownloadGoesOn", TestDownloadGoesOn},
		{"UploadGoesOn", TestUploadGoesOn},
		{"DrainUnderLoad", TestDrainUnderLoad},
		{"NoController", TestNoController},
		{"WhatEachPartIsFor", TestWhatEachPartIsFor},
		{"NginxUnderWrk", TestNginxUnderWrk},
		{"NginxUnderCurl", TestNginxUnderCurl},
	} {
		t.Run(tc.name, tc.test)
	}
}

// needFaultInjection skips a test that has the switch lose copies on purpose.
func needFaultInjection(t *testing.T) {
	t.Helper()
	if target := topologies.Target(os.Getenv(switchVariable)); !target.Faults() {
		t.Skipf("%s drops no copies on purpose: it has no fault injection", target)
	}
}
