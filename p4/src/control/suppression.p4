// SPDX-License-Identifier: Apache-2.0
// What a replica says that is not the active one does not leave. A TCP segment is
// not thrown away: cut to its headers, its shadow goes to the active server, which
// needs the other one's acknowledgements.

control Suppression(inout headers_t hdr, inout metadata_t meta) {
    @id(ID_COUNTER_REPLICA) @name("replica_counter")
    INDEXED_COUNTER(SIZE_RIDS * 4) replica_counter;

    @id(ID_ACTION_SHADOW_TO) @name("shadow_to")
    action shadow_to(@id(1) port_t port, @id(2) rid_t rid) {
        meta.egress_port = port;
        meta.rid = rid;
        meta.shadow = 1;
        meta.done = 1;
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

    apply {
        counter_index_t slot = (counter_index_t)meta.rid << 2;
        if (meta.active == meta.replica) {
            replica_counter.count(slot | VERDICT_RELEASED);
            meta.rid = 0;
        } else {
            replica_counter.count(slot | VERDICT_SUPPRESSED);
            // Where the headers of a segment that says it has less than its
            // fixed one end cannot be told.
            if (hdr.tcp.isValid() && hdr.tcp.data_offset >= 5) {
                shadow.apply();
            }
            if (meta.done == 1) {
                COUNT_AGAIN(replica_counter, slot | VERDICT_SHADOWED)
            } else {
                drop(meta, DROP_SUPPRESSED);
            }
        }
    }
}
