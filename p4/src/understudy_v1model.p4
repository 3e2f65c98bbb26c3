// SPDX-License-Identifier: Apache-2.0
// Understudy's data plane for v1model (bmv2 and the embedded switch).
//
// A client's packet for a service is copied to every server of a pair; of what
// the servers answer, only the active one's packets leave. Nothing is remembered
// per connection: tables grow with services and servers only.

#include <core.p4>
#include <v1model.p4>

#include "include/ids.p4"
#include "include/headers.p4"
#include "include/parser.p4"
#include "include/checksums.p4"
#include "include/deparser.p4"

#include "control/packet_io.p4"
#include "control/neighbours.p4"
#include "control/services.p4"
#include "control/replicas.p4"
#include "control/source_filter.p4"
#include "control/routing.p4"
#include "control/replica_rewrite.p4"

control UnderstudyIngress(inout headers_t hdr,
                inout metadata_t meta,
                inout standard_metadata_t std) {
    PacketIo() packet_io;
    Neighbours() neighbours;
    Services() services;
    Replicas() replicas;
    SourceFilter() source_filter;
    Routing() routing;

    @id(ID_COUNTER_DROP) @name("drop_counter")
    counter(DROP_REASONS, CounterType.packets_and_bytes) drop_counter;

    apply {
        if (std.parser_error != error.NoError) {
            meta.drop_reason = DROP_PARSER;
        } else if (std.checksum_error == 1) {
            meta.drop_reason = DROP_CHECKSUM;
        } else {
            packet_io.apply(hdr, meta, std);
            if (meta.done == 0) {
                neighbours.apply(hdr, meta, std);
            }
            if (meta.done == 0) {
                if (!hdr.ipv4.isValid() && !hdr.ipv6.isValid()) {
                    meta.drop_reason = DROP_NOT_IP;
                } else if ((hdr.ipv4.isValid() && hdr.ipv4.ttl <= 1)
                           || (hdr.ipv6.isValid() && hdr.ipv6.hop_limit <= 1)) {
                    meta.drop_reason = DROP_TTL;
                }
            }
            if (meta.done == 0 && meta.drop_reason == 0) {
                replicas.apply(hdr, meta, std);
            }
            if (meta.done == 0 && meta.drop_reason == 0) {
                source_filter.apply(hdr, meta);
            }
            if (meta.done == 0 && meta.drop_reason == 0) {
                services.apply(hdr, meta, std);
            }
            if (meta.done == 0 && meta.drop_reason == 0) {
                routing.apply(hdr, meta, std);
            }
        }
        if (meta.drop_reason != 0) {
            drop_counter.count((bit<32>)meta.drop_reason);
            mark_to_drop(std);
        }
    }
}

control UnderstudyEgress(inout headers_t hdr,
               inout metadata_t meta,
               inout standard_metadata_t std) {
    ReplicaRewrite() replica_rewrite;

    apply {
        replica_rewrite.apply(hdr, meta, std);
    }
}

V1Switch(UnderstudyParser(),
         VerifyChecksums(),
         UnderstudyIngress(),
         UnderstudyEgress(),
         ComputeChecksums(),
         UnderstudyDeparser()) main;
