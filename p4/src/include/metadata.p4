// SPDX-License-Identifier: Apache-2.0
// What one control tells another about the packet in hand. No control knows an
// architecture: that which runs the program sets the first part, and carries out
// the second.

#ifndef UNDERSTUDY_METADATA_P4
#define UNDERSTUDY_METADATA_P4

typedef bit<32> ticks_t;        // of a clock that wraps: see the architecture

struct metadata_t {
    // ---- from the architecture ----
    port_t       ingress_port;
    ticks_t      now;

    // ---- for the architecture: one of the three, once done is 1 ----
    bit<1>       done;           // it is decided what becomes of the packet
    bit<8>       drop_reason;    // DROP_*; 0: not dropped
    group_id_t   group;          // copies to this multicast group; 0: none
    port_t       egress_port;    // else, to this port

    // ---- what the parser found ----
    bit<8>       protocol;       // of the payload of IPv4 or IPv6
    bit<16>      src_port;       // of TCP or UDP, 0 for anything else
    bit<16>      dst_port;
    bit<1>       is_fragment;    // first, later or the only one

    // ---- whose packet it is, and who is heard ----
    pair_id_t    pair;
    replica_id_t replica;        // 0: no replica's
    rid_t        rid;            // of the replica; then whom egress rewrites for, 0: nobody
    replica_id_t active;         // whose packets leave; 0: nobody's
    epoch_t      epoch;
    replica_id_t standby;        // whom the watchdog may release; 0: nobody
    ticks_t      limit;          // if the active one is silent for longer than this

    // ---- for egress ----
    bit<1>       shadow;         // cut to its headers
    bit<1>       nd_reply;       // a neighbour advertisement that we wrote

    ARCH_METADATA
}

// For conditions: no control has decided yet what becomes of the packet.
#define UNDECIDED (meta.done == 0)

// drop ends the packet's way through the controls.
@hidden action drop(inout metadata_t meta, in bit<8> reason) {
    meta.drop_reason = reason;
    meta.done = 1;
}

#endif
