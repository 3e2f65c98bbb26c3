// SPDX-License-Identifier: Apache-2.0

package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-14 -cflags "-O2 -g -Wall -Werror -mcpu=v3" -target bpfel -type tuple -type service_key -type service -type conn -type request -type operation -type socket_state -type socket_flags -type service_flags -type conn_flags -type tally connections connections.bpf.c
