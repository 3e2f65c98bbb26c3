// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package latency

func preferHugePages([]byte) {}

func askForShortSlices() {}
