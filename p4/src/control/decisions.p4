// SPDX-License-Identifier: Apache-2.0
// What becomes of a packet: each control in turn may decide it, and the first that
// does has the last word.

control Decisions(inout headers_t hdr, inout metadata_t meta) {
    PacketIo() packet_io;
    Neighbours() neighbours;
    Routable() routable;
    Replicas() replicas;
    Active() active;
    Watchdog() watchdog;
    Suppression() suppression;
    SourceFilter() source_filter;
    Services() services;
    Routing() routing;

    @id(ID_COUNTER_DROP) @name("drop_counter")
    INDEXED_COUNTER(DROP_REASONS) drop_counter;

    apply {
        if UNDECIDED { packet_io.apply(hdr, meta); }
        if UNDECIDED { neighbours.apply(hdr, meta); }
        if UNDECIDED { routable.apply(hdr, meta); }
        if UNDECIDED { replicas.apply(hdr, meta); }
        if (meta.replica != 0) {            // a reply, or a heartbeat
            active.apply(meta);
            if (meta.standby != 0) { watchdog.apply(hdr, meta); }
            if UNDECIDED { suppression.apply(hdr, meta); }
        } else {
            if UNDECIDED { source_filter.apply(hdr, meta); }
        }
        if UNDECIDED { services.apply(hdr, meta); }
        if UNDECIDED { routing.apply(hdr, meta); }

        if (meta.drop_reason != 0) {
            drop_counter.count((counter_index_t)meta.drop_reason);
        }
    }
}
