// SPDX-License-Identifier: Apache-2.0
// Who speaks? A server is known by the port it is at, its MAC address and the VIP
// that it has as its source, all three together.

control Replicas(inout headers_t hdr, inout metadata_t meta) {
    @id(ID_ACTION_FROM_REPLICA) @name("from_replica")
    action from_replica(@id(1) pair_id_t pair, @id(2) replica_id_t replica, @id(3) rid_t rid) {
        meta.pair = pair;
        meta.replica = replica;
        meta.rid = rid;
    }

    @id(ID_TABLE_REPLICA) @name("replica")
    table replica_v4 {
        key = {
            meta.ingress_port:     exact @name("ingress_port");
            hdr.ethernet.src_addr: exact @name("src_mac");
            hdr.ipv4.src_addr:     exact @name("src_addr");
        }
        actions = { from_replica; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_REPLICAS;
    }

    @id(ID_TABLE_REPLICA6) @name("replica6")
    table replica_v6 {
        key = {
            meta.ingress_port:     exact @name("ingress_port");
            hdr.ethernet.src_addr: exact @name("src_mac");
            hdr.ipv6.src_addr:     exact @name("src_addr");
        }
        actions = { from_replica; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_REPLICAS;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            replica_v4.apply();
        } else {
            replica_v6.apply();
        }
    }
}
