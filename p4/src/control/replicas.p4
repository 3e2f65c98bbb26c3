// SPDX-License-Identifier: Apache-2.0
// A packet from a server, with a VIP as its source: which server of which pair
// speaks, and may it be heard? `active` is the entry that a failover flips.

control Replicas(inout headers_t hdr,
                 inout metadata_t meta,
                 inout standard_metadata_t std) {
    @id(ID_ACTION_FROM_REPLICA) @name("from_replica")
    action from_replica(@id(1) pair_id_t pair, @id(2) replica_id_t replica, @id(3) rid_t rid) {
        meta.pair = pair;
        meta.replica = replica;
        meta.rid = rid;
    }

    @id(ID_TABLE_REPLICA) @name("replica")
    table replica_v4 {
        key = {
            std.ingress_port:      exact @name("ingress_port");
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
            std.ingress_port:      exact @name("ingress_port");
            hdr.ethernet.src_addr: exact @name("src_mac");
            hdr.ipv6.src_addr:     exact @name("src_addr");
        }
        actions = { from_replica; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_REPLICAS;
    }

    // The epoch takes no part in forwarding: it is there to be read back, by a
    // controller that has forgotten.
    @id(ID_ACTION_SET_ACTIVE) @name("set_active")
    action set_active(@id(1) replica_id_t replica, @id(2) epoch_t epoch) {
        meta.active = replica;
        meta.epoch = epoch;
    }

    @id(ID_TABLE_ACTIVE) @name("active")
    table active {
        key = { meta.pair: exact @name("pair"); }
        actions = { set_active; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_PAIRS;
    }

    @id(ID_ACTION_SHADOW_TO) @name("shadow_to")
    action shadow_to(@id(1) bit<9> port, @id(2) rid_t rid) {
        std.egress_spec = port;
        meta.rid = rid;
        meta.shadow = 1;
    }

    // Where the active server of a pair is. Keyed by what `active` says, so that
    // a flip turns the shadow around in the same instant.
    @id(ID_TABLE_SHADOW) @name("shadow")
    table shadow {
        key = {
            meta.pair:   exact @name("pair");
            meta.active: exact @name("active");
        }
        actions = { shadow_to; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_REPLICAS;
    }

    @id(ID_COUNTER_REPLICA) @name("replica_counter")
    counter(SIZE_RIDS * 4, CounterType.packets_and_bytes) replica_counter;

    apply {
        bool from = false;
        if (hdr.ipv4.isValid()) {
            from = replica_v4.apply().hit;
        } else if (hdr.ipv6.isValid()) {
            from = replica_v6.apply().hit;
        }
        if (from) {
            bit<32> slot = (bit<32>)meta.rid * 4;
            if (!active.apply().hit) {
                meta.drop_reason = DROP_NO_ACTIVE;
            } else if (meta.active == meta.replica) {
                replica_counter.count(slot + VERDICT_RELEASED);
                meta.rid = 0;
            } else {
                replica_counter.count(slot + VERDICT_SUPPRESSED);
                if (hdr.tcp.isValid() && shadow.apply().hit) {
                    replica_counter.count(slot + VERDICT_SHADOWED);
                    meta.done = 1;
                } else {
                    meta.drop_reason = DROP_SUPPRESSED;
                }
            }
        }
    }
}
