// SPDX-License-Identifier: Apache-2.0
// Egress: a copy, or a shadow, is addressed to the server that it is for. All
// replicas of a pair see the same IP packet; only the Ethernet header differs.

control ReplicaRewrite(inout headers_t hdr, in rid_t copy, in rid_t shadow) {
    @id(ID_COUNTER_COPY) @name("copy_counter")
    INDEXED_COUNTER(SIZE_RIDS) copy_counter;

    @id(ID_ACTION_REWRITE) @name("rewrite")
    action rewrite(@id(1) mac_t dst_mac, @id(2) mac_t src_mac) {
        hdr.ethernet.dst_addr = dst_mac;
        hdr.ethernet.src_addr = src_mac;
    }

    rid_t rid = shadow;

    @id(ID_TABLE_REPLICA_REWRITE) @name("replica_rewrite")
    table replica_rewrite {
        key = { rid: exact @name("rid"); }
        actions = { rewrite; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_RIDS;
    }

    apply {
        if (copy != 0) {
            copy_counter.count((counter_index_t)copy);
            rid = copy;
        }
        if (rid != 0) {
            replica_rewrite.apply();
        }
    }
}
