// SPDX-License-Identifier: Apache-2.0
// Understudy's data plane for TNA (Tofino): the controls are those of
// understudy_v1model.p4. Here is only what TNA wants done in its own way. See
// docs/tofino.md for what of it has been compiled, and what has run.

#include "arch/tna.p4"

#include "include/ids.p4"
#include "include/headers.p4"
#include "include/metadata.p4"
#include "include/checksums.p4"
#include "include/deparser.p4"

#include "arch/tna_registers.p4"

#include "control/all.p4"

// ---- ingress ----

parser UnderstudyIngressParser(packet_in packet,
                               out headers_t hdr,
                               out metadata_t meta,
                               out ingress_intrinsic_metadata_t ingress) {
    Checksum() ipv4_checksum;

    state start {
        packet.extract(ingress);
        packet.advance(PORT_METADATA_SIZE);
        meta.done = 0;
        meta.drop_reason = 0;
        meta.group = 0;
        meta.egress_port = 0;
        meta.protocol = 0;
        meta.src_port = 0;
        meta.dst_port = 0;
        meta.is_fragment = 0;
        meta.pair = 0;
        meta.replica = 0;
        meta.rid = 0;
        meta.active = 0;
        meta.epoch = 0;
        meta.standby = 0;
        meta.limit = 0;
        meta.shadow = 0;
        meta.nd_reply = 0;
        meta.checksum_error = false;
        meta.ingress_port = ingress.ingress_port;
        // 1.024 microseconds.
        meta.now = ingress.ingress_mac_tstamp[41:10];
        transition select(ingress.ingress_port) {
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

control UnderstudyIngress(inout headers_t hdr,
                          inout metadata_t meta,
                          in ingress_intrinsic_metadata_t ingress,
                          in ingress_intrinsic_metadata_from_parser_t parsed,
                          inout ingress_intrinsic_metadata_for_deparser_t deparser,
                          inout ingress_intrinsic_metadata_for_tm_t tm) {
    Decisions() decisions;

    apply {
        if (parsed.parser_err != 0) {
            drop(meta, DROP_PARSER);
        } else if (meta.checksum_error && UNDECIDED) {
            drop(meta, DROP_CHECKSUM);
        }
        decisions.apply(hdr, meta);
        if (meta.drop_reason != 0) {
            deparser.drop_ctl = 1;
        } else if (meta.group != 0) {
            tm.mcast_grp_a = meta.group;
            hdr.bridge.setValid();
            hdr.bridge.rid = 0;
        } else {
            tm.ucast_egress_port = meta.egress_port;
            if (meta.rid != 0) {
                hdr.bridge.setValid();
                hdr.bridge.rid = meta.rid;
            } else {
                tm.bypass_egress = 1;   // nothing more is to be done
            }
        }
    }
}

control UnderstudyIngressDeparser(packet_out packet,
                                  inout headers_t hdr,
                                  in metadata_t meta,
                                  in ingress_intrinsic_metadata_for_deparser_t deparser) {
    Checksum() ipv4_checksum;
    Checksum() icmp_checksum;
    FrameDeparser() frame;

    apply {
        if (hdr.ipv4.isValid()) {
            hdr.ipv4.checksum = ipv4_checksum.update({ IPV4_FIELDS, hdr.ipv4_options.bytes });
        }
        if (meta.nd_reply == 1) {
            hdr.icmp.checksum = icmp_checksum.update({ NEIGHBOUR_FIELDS, NEIGHBOUR_OPTION_FIELDS });
        }
        packet.emit(hdr.bridge);
        frame.apply(packet, hdr);
    }
}

// ---- egress: copies and shadows, addressed to whom they are for ----

struct none_t {}

parser UnderstudyEgressParser(packet_in packet,
                              out headers_t hdr,
                              out none_t meta,
                              out egress_intrinsic_metadata_t egress) {
    state start {
        packet.extract(egress);
        packet.extract(hdr.bridge);
        packet.extract(hdr.ethernet);
        transition accept;
    }
}

control UnderstudyEgress(inout headers_t hdr,
                         inout none_t meta,
                         in egress_intrinsic_metadata_t egress,
                         in egress_intrinsic_metadata_from_parser_t parsed,
                         inout egress_intrinsic_metadata_for_deparser_t deparser,
                         inout egress_intrinsic_metadata_for_output_port_t output) {
    ReplicaRewrite() replica_rewrite;

    // A shadow leaves whole: a Tofino cuts only what it mirrors.
    apply {
        replica_rewrite.apply(hdr, egress.egress_rid, hdr.bridge.rid);
    }
}

control UnderstudyEgressDeparser(packet_out packet,
                                 inout headers_t hdr,
                                 in none_t meta,
                                 in egress_intrinsic_metadata_for_deparser_t deparser) {
    apply {
        packet.emit(hdr.ethernet);
    }
}

Pipeline(UnderstudyIngressParser(),
         UnderstudyIngress(),
         UnderstudyIngressDeparser(),
         UnderstudyEgressParser(),
         UnderstudyEgress(),
         UnderstudyEgressDeparser()) pipe;

Switch(pipe) main;
