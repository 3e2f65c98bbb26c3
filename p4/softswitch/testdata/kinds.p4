// SPDX-License-Identifier: Apache-2.0
// One table of every kind, for tests of the P4Runtime server. Compiled with
//
//   p4c-bm2-ss -o kinds.json --p4runtime-files kinds.p4info.txtpb kinds.p4
//
// A packet is one header: it asks for a table, which decides the egress port.

#include <core.p4>
#include <v1model.p4>

header query_t {
    bit<8>   kind;     // which table to apply
    bit<12>  narrow;
    bit<4>   pad;
    bit<32>  word;
    bit<128> wide;
    bit<16>  result;
}

@controller_header("packet_in")
header packet_in_t {
    @id(1) bit<9>  ingress_port;
    @id(2) bit<16> reason;
    @id(3) bit<7>  pad;
}

@controller_header("packet_out")
header packet_out_t {
    @id(7) bit<9>  egress_port;
    @id(8) bit<7>  pad;
}

struct headers_t {
    packet_in_t  packet_in;
    packet_out_t packet_out;
    query_t      query;
}

struct meta_t { }

parser KindsParser(packet_in packet, out headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    state start {
        transition select(std.ingress_port) {
            510: from_controller;
            default: query;
        }
    }
    state from_controller {
        packet.extract(hdr.packet_out);
        transition query;
    }
    state query {
        packet.extract(hdr.query);
        transition accept;
    }
}

control NoVerify(inout headers_t hdr, inout meta_t meta) { apply { } }
control NoCompute(inout headers_t hdr, inout meta_t meta) { apply { } }

control KindsIngress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    direct_counter(CounterType.packets_and_bytes) exact_counter;
    counter(8, CounterType.packets_and_bytes) indirect_counter;
    register<bit<32>>(4) last_word;

    action answer(bit<9> port, bit<16> result) {
        std.egress_spec = port;
        hdr.query.result = result;
    }
    action answer_wide(bit<128> value) {
        std.egress_spec = 1;
        hdr.query.wide = value;
    }
    action drop() { mark_to_drop(std); }
    action punt(bit<16> reason) {
        std.egress_spec = 510;
        hdr.packet_in.setValid();
        hdr.packet_in.ingress_port = std.ingress_port;
        hdr.packet_in.reason = reason;
    }
    action copies(bit<16> group) { std.mcast_grp = group; }

    table exact_table {
        key = { hdr.query.narrow: exact; hdr.query.word: exact; }
        actions = { answer; answer_wide; punt; copies; drop; @defaultonly NoAction; }
        const default_action = drop();
        counters = exact_counter;
        size = 4;
    }
    table lpm_table {
        key = { hdr.query.narrow: exact; hdr.query.wide: lpm; }
        actions = { answer; drop; }
        default_action = drop();
        size = 1024;
    }
    table ternary_table {
        key = { hdr.query.narrow: ternary; hdr.query.wide: ternary; }
        actions = { answer; @tableonly drop; @defaultonly NoAction; }
        default_action = NoAction();
    }
    table range_table {
        key = { hdr.query.narrow: range; hdr.query.word: exact; }
        actions = { answer; drop; }
        default_action = answer(3, 0xdead);
    }
    table optional_table {
        key = { hdr.query.narrow: optional; hdr.query.word: optional; }
        actions = { answer; drop; }
        default_action = drop();
    }
    table const_table {
        key = { hdr.query.narrow: ternary; hdr.query.word: ternary; }
        actions = { answer; drop; }
        const entries = {
            (1, _): answer(2, 1);
            (0x100 &&& 0xf00, 7): answer(3, 2);
            (_, 7): answer(4, 3);
        }
        default_action = drop();
    }
    table keyless_table {
        actions = { answer; drop; }
        default_action = drop();
    }

    apply {
        indirect_counter.count((bit<32>)hdr.query.kind);
        last_word.write(0, hdr.query.word);
        if (hdr.packet_out.isValid()) {
            std.egress_spec = hdr.packet_out.egress_port;
            hdr.packet_out.setInvalid();
        } else if (hdr.query.kind == 1) { exact_table.apply(); }
        else if (hdr.query.kind == 2) { lpm_table.apply(); }
        else if (hdr.query.kind == 3) { ternary_table.apply(); }
        else if (hdr.query.kind == 4) { range_table.apply(); }
        else if (hdr.query.kind == 5) { optional_table.apply(); }
        else if (hdr.query.kind == 6) { const_table.apply(); }
        else if (hdr.query.kind == 7) { keyless_table.apply(); }
        else { drop(); }
    }
}

control KindsEgress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    apply {
        if (std.egress_rid != 0) {
            hdr.query.result = std.egress_rid;
        }
    }
}

control KindsDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.query);
    }
}

V1Switch(KindsParser(), NoVerify(), KindsIngress(), KindsEgress(), NoCompute(), KindsDeparser()) main;
