// SPDX-License-Identifier: Apache-2.0
// One of every object that P4Runtime has beside tables, for tests of the P4Runtime
// server. Compiled with
//
//   p4c-bm2-ss -o objects.json --p4runtime-files objects.p4info.txtpb objects.p4
//
// A packet is one header: it asks for an object, and result says what was found.

#include <core.p4>
#include <v1model.p4>

header ask_t {
    bit<8>  kind;    // what to ask
    bit<8>  index;
    bit<16> key;
    bit<32> word;
    bit<16> result;
}

struct headers_t {
    ask_t ask;
}

struct meta_t {
    @field_list(1)
    bit<16> seen;    // what a clone keeps
    bit<2>  colour;
}

struct words_t {
    bit<8>  index;
    @match(ternary)
    bit<16> key;
    @match(range)
    bit<32> word;
}

// A digest.
struct learned_t {
    bit<9>  port;
    bit<32> word;
    int<16> key;
}

parser ObjectsParser(packet_in packet, out headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    value_set<bit<16>>(4) keys;
    value_set<words_t>(2) words;
    state start {
        packet.extract(hdr.ask);
        transition select(hdr.ask.key) {
            keys: in_keys;
            default: look_at_words;
        }
    }
    state in_keys {
        meta.seen = 1;
        transition accept;
    }
    state look_at_words {
        transition select(hdr.ask.index, hdr.ask.key, hdr.ask.word) {
            words: in_words;
            default: accept;
        }
    }
    state in_words {
        meta.seen = 2;
        transition accept;
    }
}

control NoVerify(inout headers_t hdr, inout meta_t meta) { apply { } }
control NoCompute(inout headers_t hdr, inout meta_t meta) { apply { } }

control ObjectsIngress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    action_profile(4) profile;
    @max_group_size(8)
    action_selector(HashAlgorithm.identity, 32w16, 32w32) hash_selector;
    @max_group_size(2) @selector_size_semantics("sum_of_members") @max_member_weight(10)
    action_selector(HashAlgorithm.identity, 32w4, 32w32) small_selector;
    direct_counter(CounterType.packets_and_bytes) entry_counter;
    direct_meter<bit<2>>(MeterType.packets) entry_meter;
    meter(4, MeterType.packets) packet_meter;
    meter(2, MeterType.bytes) byte_meter;
    register<bit<32>>(4) words;
    register<int<16>>(2) numbers;
    register<bit<128>>(2) wide;

    action answer(bit<9> port, bit<16> result) {
        std.egress_spec = port;
        hdr.ask.result = result;
    }
    action refuse() { mark_to_drop(std); }
    action colour(bit<9> port) {
        std.egress_spec = port;
        entry_meter.read(meta.colour);
        entry_counter.count();
    }

    table indirect {
        key = { hdr.ask.key: exact; }
        actions = { answer; refuse; }
        implementation = profile;
    }
    table group {
        key = { hdr.ask.key: exact; hdr.ask.word: selector; }
        actions = { answer; refuse; }
        implementation = hash_selector;
    }
    table small_group {
        key = { hdr.ask.key: exact; hdr.ask.word: selector; }
        actions = { answer; refuse; }
        implementation = small_selector;
    }
    table metered {
        key = { hdr.ask.key: exact; }
        actions = { colour; }
        counters = entry_counter;
        meters = entry_meter;
        support_timeout = true;
        size = 64;
    }
    table initial {
        key = { hdr.ask.key: ternary; }
        actions = { answer; refuse; }
        default_action = refuse();
        size = 8;
        entries = {
            const 1: answer(2, 1);
            2: answer(2, 2);
            0x10 &&& 0xf0: answer(2, 3);
        }
    }

    apply {
        std.egress_spec = 1;
        hdr.ask.result = meta.seen;
        if (hdr.ask.kind == 1) { indirect.apply(); }
        else if (hdr.ask.kind == 2) { group.apply(); }
        else if (hdr.ask.kind == 3) { small_group.apply(); }
        else if (hdr.ask.kind == 4) {
            metered.apply();
            hdr.ask.result = (bit<16>)meta.colour;
        }
        else if (hdr.ask.kind == 5) { initial.apply(); }
        else if (hdr.ask.kind == 6) {
            packet_meter.execute_meter((bit<32>)hdr.ask.index, meta.colour);
            hdr.ask.result = (bit<16>)meta.colour;
        }
        else if (hdr.ask.kind == 7) {
            byte_meter.execute_meter((bit<32>)hdr.ask.index, meta.colour);
            hdr.ask.result = (bit<16>)meta.colour;
        }
        else if (hdr.ask.kind == 8) {
            bit<32> w;
            int<16> n;
            bit<128> v;
            words.read(w, (bit<32>)hdr.ask.index);
            words.write((bit<32>)hdr.ask.index, hdr.ask.word);
            numbers.read(n, 0);
            wide.read(v, 0);
            wide.write(1, v + 1);
            hdr.ask.word = w;
            hdr.ask.result = (bit<16>)n;
        }
        else if (hdr.ask.kind == 9) {
            digest<learned_t>(1, { std.ingress_port, hdr.ask.word, (int<16>)hdr.ask.key });
        }
        else if (hdr.ask.kind == 10) {
            meta.seen = hdr.ask.key;
            clone_preserving_field_list(CloneType.I2E, (bit<32>)hdr.ask.index, 1);
        }
        else if (hdr.ask.kind == 11) { std.mcast_grp = hdr.ask.key; }
    }
}

control ObjectsEgress(inout headers_t hdr, inout meta_t meta, inout standard_metadata_t std) {
    apply {
        if (std.egress_rid != 0) { hdr.ask.result = std.egress_rid; }
        if (std.instance_type == 1) { hdr.ask.key = meta.seen + 1; }
    }
}

control ObjectsDeparser(packet_out packet, in headers_t hdr) {
    apply { packet.emit(hdr.ask); }
}

V1Switch(ObjectsParser(), NoVerify(), ObjectsIngress(), ObjectsEgress(), NoCompute(), ObjectsDeparser()) main;
