// SPDX-License-Identifier: Apache-2.0
// Understudy's data plane for v1model (bmv2 and the embedded switch).
//
// A client's packet for a service is copied to every server of a pair; of what
// the servers answer, only the active one's packets leave. Nothing is remembered
// per connection: tables grow with services and servers only.
//
// Read control/decisions.p4 next: it is the order of things. Here is only what
// v1model wants done in its own way.

#include "arch/v1model.p4"

#include "include/ids.p4"
#include "include/headers.p4"
#include "include/metadata.p4"
#include "include/checksums.p4"
#include "include/deparser.p4"

#include "arch/v1model_registers.p4"

#include "control/all.p4"

parser UnderstudyParser(packet_in packet,
                        out headers_t hdr,
                        inout metadata_t meta,
                        inout standard_metadata_t std) {
    state start {
        transition select(std.ingress_port) {
            CPU_PORT: controller;
            default: frame;
        }
    }

    // What follows is sent as it is.
    state controller {
        packet.extract(hdr.packet_out);
        transition accept;
    }

#include "include/parser.p4"
}

control VerifyChecksums(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(hdr.ipv4.isValid() && !hdr.ipv4_options.isValid(),
            { IPV4_FIELDS }, hdr.ipv4.checksum, HashAlgorithm.csum16);
        verify_checksum(hdr.ipv4.isValid() && hdr.ipv4_options.isValid(),
            { IPV4_FIELDS, hdr.ipv4_options.bytes }, hdr.ipv4.checksum, HashAlgorithm.csum16);
        verify_checksum(hdr.neighbour.isValid() && !hdr.neighbour_option.isValid(),
            { NEIGHBOUR_FIELDS }, hdr.icmp.checksum, HashAlgorithm.csum16);
        verify_checksum(hdr.neighbour.isValid() && hdr.neighbour_option.isValid(),
            { NEIGHBOUR_FIELDS, NEIGHBOUR_OPTION_FIELDS }, hdr.icmp.checksum, HashAlgorithm.csum16);
    }
}

control UnderstudyIngress(inout headers_t hdr,
                          inout metadata_t meta,
                          inout standard_metadata_t std) {
    Decisions() decisions;

    apply {
        meta.ingress_port = std.ingress_port;
        meta.now = (ticks_t)std.ingress_global_timestamp;      // microseconds
        if (std.parser_error != error.NoError) {
            drop(meta, DROP_PARSER);
        } else if (std.checksum_error == 1 && UNDECIDED) {
            drop(meta, DROP_CHECKSUM);
        }
        decisions.apply(hdr, meta);
        if (meta.drop_reason != 0) {
            mark_to_drop(std);
        } else {
            std.mcast_grp = meta.group;
            std.egress_spec = meta.egress_port;
        }
    }
}

control UnderstudyEgress(inout headers_t hdr,
                         inout metadata_t meta,
                         inout standard_metadata_t std) {
    ReplicaRewrite() replica_rewrite;

    apply {
        replica_rewrite.apply(hdr, std.egress_rid, meta.rid);
        if (meta.shadow == 1) {
            bit<32> network = 40;
            if (hdr.ipv4.isValid()) {
                network = (bit<32>)hdr.ipv4.ihl << 2;
            }
            truncate(14 + network + ((bit<32>)hdr.tcp.data_offset << 2));
        }
    }
}

// The TTL changes; a neighbour advertisement is one that we wrote.
control ComputeChecksums(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum(hdr.ipv4.isValid() && !hdr.ipv4_options.isValid(),
            { IPV4_FIELDS }, hdr.ipv4.checksum, HashAlgorithm.csum16);
        update_checksum(hdr.ipv4.isValid() && hdr.ipv4_options.isValid(),
            { IPV4_FIELDS, hdr.ipv4_options.bytes }, hdr.ipv4.checksum, HashAlgorithm.csum16);
        update_checksum(meta.nd_reply == 1,
            { NEIGHBOUR_FIELDS, NEIGHBOUR_OPTION_FIELDS }, hdr.icmp.checksum, HashAlgorithm.csum16);
    }
}

V1Switch(UnderstudyParser(),
         VerifyChecksums(),
         UnderstudyIngress(),
         UnderstudyEgress(),
         ComputeChecksums(),
         FrameDeparser()) main;
