// SPDX-License-Identifier: Apache-2.0
// What differs from one architecture to the next, as v1model has it.

#include <core.p4>
#include <v1model.p4>

typedef bit<32> counter_index_t;

#define INDEXED_COUNTER(size) counter(size, CounterType.packets_and_bytes)
#define DIRECT_COUNTER direct_counter(CounterType.packets_and_bytes)

// A counter may count one packet twice.
#define COUNT_AGAIN(counter, index) counter.count(index);

// A direct counter of v1model counts each hit of its table by itself.
#define COUNT_DIRECT(counter)

// Nothing more goes with a packet from one end of the program to the other, and
// checksums are verified after the parser.
#define ARCH_HEADERS
#define ARCH_METADATA
#define IPV4_EXTRACTED
#define IPV4_OPTIONS_EXTRACTED
#define IPV4_COMPLETE
