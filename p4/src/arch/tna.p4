// SPDX-License-Identifier: Apache-2.0
// What differs from one architecture to the next, as TNA (Tofino) has it.

#include <core.p4>
#include <tna.p4>

typedef bit<16> counter_index_t;

#define INDEXED_COUNTER(size) Counter<bit<64>, counter_index_t>(size, CounterType_t.PACKETS_AND_BYTES)
#define DIRECT_COUNTER DirectCounter<bit<64>>(CounterType_t.PACKETS_AND_BYTES)
#define COUNT_DIRECT(counter) counter.count();

// A counter is reached once per packet: what is shadowed counts as suppressed only.
#define COUNT_AGAIN(counter, index)

// The PCIe port of a Tofino with two pipes; 320 with four. -DCPU_PORT=320 overrides it.
#ifndef CPU_PORT
#define CPU_PORT 192
#endif

// What ingress tells egress goes in front of the packet.
header bridge_t {
    bit<16> rid;                // whom a shadow is for
}
#define ARCH_HEADERS bridge_t bridge;

// The parser verifies the IPv4 checksum on its way; true is an error.
#define ARCH_METADATA bool checksum_error;
#define IPV4_EXTRACTED ipv4_checksum.add(hdr.ipv4);
#define IPV4_OPTIONS_EXTRACTED ipv4_checksum.add(hdr.ipv4_options);
#define IPV4_COMPLETE meta.checksum_error = ipv4_checksum.verify();
