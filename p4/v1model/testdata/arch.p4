// SPDX-License-Identifier: Apache-2.0
// What the architecture does around a program, for tests of package v1model.
// Compiled with
//
//   p4c-bm2-ss -o arch.json arch.p4
//
// The first byte of a packet says what shall happen to it; what the program saw is
// written into the header "seen", which egress adds.

#include <core.p4>
#include <v1model.p4>

const bit<8> UNICAST      = 1;
const bit<8> MULTICAST    = 2;   // to the group in arg
const bit<8> DROP         = 3;
const bit<8> DROP_AFTER_MULTICAST = 4;
const bit<8> MULTICAST_AFTER_DROP = 5;
const bit<8> CUT_IN_INGRESS = 6; // to arg bytes
const bit<8> CUT_IN_EGRESS  = 7;
const bit<8> DROP_IN_EGRESS = 8; // copies with replication id 2, or all unicast
const bit<8> LEAVE_EARLY    = 9; // exit
const bit<8> GROW           = 10; // add a header in ingress
const bit<8> SHRINK         = 11; // remove one in ingress
const bit<8> CUT_IN_INGRESS_MULTICAST = 12;

header ask_t {
    bit<8>  what;
    bit<8>  flags;     // 1: another header follows; 2: a bad length, see the parser
    bit<16> arg;
    bit<16> checksum;  // of arg, verified if flags has 4
}

header extra_t { bit<32> value; }

header seen_t {
    bit<16> ingress_port;
    bit<16> egress_port;
    bit<16> rid;
    bit<32> instance_type;
    bit<32> ingress_length;
    bit<32> egress_length;
    bit<32> parser_error;
    bit<8>  checksum_error;
    bit<64> ingress_time;
    bit<64> egress_time;
}

struct headers_t { seen_t seen; ask_t ask; extra_t extra; }
struct meta_t { bit<32> ingress_length; bit<32> parser_error; }

parser ArchParser(packet_in packet, out headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    state start {
        packet.extract(hdr.ask);
        transition select(hdr.ask.flags[1:0]) {
            1: extra;
            2: bad;
            default: accept;
        }
    }
    state extra {
        packet.extract(hdr.extra);
        transition accept;
    }
    state bad {
        verify(false, error.StackOutOfBounds);
        transition accept;
    }
}

control ArchVerify(inout headers_t hdr, inout meta_t meta) {
    apply {
        verify_checksum(hdr.ask.flags[2:2] == 1, { hdr.ask.arg }, hdr.ask.checksum, HashAlgorithm.csum16);
    }
}

control ArchIngress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    apply {
        meta.ingress_length = std.packet_length;
        std.egress_spec = 1;
        if (std.parser_error == error.PacketTooShort) {
            meta.parser_error = 1;
        } else if (std.parser_error == error.StackOutOfBounds) {
            meta.parser_error = 2;
        }
        if (hdr.ask.what == MULTICAST) {
            std.mcast_grp = hdr.ask.arg;
        } else if (hdr.ask.what == DROP) {
            mark_to_drop(std);
        } else if (hdr.ask.what == DROP_AFTER_MULTICAST) {
            std.mcast_grp = hdr.ask.arg;
            mark_to_drop(std);
        } else if (hdr.ask.what == MULTICAST_AFTER_DROP) {
            mark_to_drop(std);
            std.mcast_grp = hdr.ask.arg;
        } else if (hdr.ask.what == CUT_IN_INGRESS) {
            truncate((bit<32>)hdr.ask.arg);
        } else if (hdr.ask.what == CUT_IN_INGRESS_MULTICAST) {
            truncate((bit<32>)hdr.ask.arg);
            std.mcast_grp = 1;
        } else if (hdr.ask.what == LEAVE_EARLY) {
            std.egress_spec = 7;
            exit;
        } else if (hdr.ask.what == GROW) {
            hdr.extra.setValid();
            hdr.extra.value = 0xdeadbeef;
        } else if (hdr.ask.what == SHRINK) {
            hdr.extra.setInvalid();
        } else if (hdr.ask.what == DROP_IN_EGRESS && hdr.ask.arg != 0) {
            std.mcast_grp = hdr.ask.arg;
        }
        hdr.ask.flags[7:7] = 1;
    }
}

control ArchEgress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    apply {
        hdr.seen.setValid();
        hdr.seen.ingress_port = (bit<16>)std.ingress_port;
        hdr.seen.egress_port = (bit<16>)std.egress_port;
        hdr.seen.rid = std.egress_rid;
        hdr.seen.instance_type = std.instance_type;
        hdr.seen.ingress_length = meta.ingress_length;
        hdr.seen.egress_length = std.packet_length;
        hdr.seen.parser_error = meta.parser_error;
        hdr.seen.checksum_error = (bit<8>)std.checksum_error;
        hdr.seen.ingress_time = (bit<64>)std.ingress_global_timestamp;
        hdr.seen.egress_time = (bit<64>)std.egress_global_timestamp;
        if (hdr.ask.what == CUT_IN_EGRESS) {
            truncate((bit<32>)hdr.ask.arg);
        } else if (hdr.ask.what == DROP_IN_EGRESS && (std.egress_rid == 2 || hdr.ask.arg == 0)) {
            mark_to_drop(std);
        }
    }
}

control ArchCompute(inout headers_t hdr, inout meta_t meta) {
    apply {
        update_checksum_with_payload(hdr.extra.isValid(), { hdr.ask.what, hdr.ask.flags, hdr.ask.arg, hdr.extra.value },
            hdr.ask.checksum, HashAlgorithm.csum16);
    }
}

control ArchDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.seen);
        packet.emit(hdr.ask);
        packet.emit(hdr.extra);
    }
}

V1Switch(ArchParser(), ArchVerify(), ArchIngress(), ArchEgress(), ArchCompute(), ArchDeparser()) main;
