// SPDX-License-Identifier: Apache-2.0
// Egress: a copy, or a shadow, is addressed to the server that it is for. All
// replicas of a pair see the same IP packet; only the Ethernet header differs.

control ReplicaRewrite(inout headers_t hdr,
                       inout metadata_t meta,
                       inout standard_metadata_t std) {
    @id(ID_COUNTER_COPY) @name("copy_counter")
    counter(SIZE_RIDS, CounterType.packets_and_bytes) copy_counter;

    @id(ID_ACTION_REWRITE) @name("rewrite")
    action rewrite(@id(1) mac_t dst_mac, @id(2) mac_t src_mac) {
        hdr.ethernet.dst_addr = dst_mac;
        hdr.ethernet.src_addr = src_mac;
    }

    @id(ID_TABLE_REPLICA_REWRITE) @name("replica_rewrite")
    table replica_rewrite {
        key = { meta.rid: exact @name("rid"); }
        actions = { rewrite; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_RIDS;
    }

    apply {
        if (std.egress_rid != 0) {
            meta.rid = std.egress_rid;
            copy_counter.count((bit<32>)meta.rid);
        }
        if (meta.rid != 0) {
            replica_rewrite.apply();
        }
        if (meta.shadow == 1) {
            bit<32> network = 40;
            if (hdr.ipv4.isValid()) {
                network = (bit<32>)hdr.ipv4.ihl << 2;
            }
            truncate(14 + network + ((bit<32>)hdr.tcp.data_offset << 2));
        }
    }
}
