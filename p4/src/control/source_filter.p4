// SPDX-License-Identifier: Apache-2.0
// Nobody but a pair's own servers may send from its VIPs. Replicas runs first:
// what it recognised by port, MAC and VIP together never comes here.

control SourceFilter(inout headers_t hdr, inout metadata_t meta) {
    @id(ID_ACTION_GUARD) @name("guard")
    action guard() {
        meta.drop_reason = DROP_SPOOFED;
    }

    @id(ID_TABLE_SOURCE_FILTER) @name("source_filter")
    table source_filter {
        key = { hdr.ipv4.src_addr: exact @name("src_addr"); }
        actions = { guard; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_VIPS;
    }

    @id(ID_TABLE_SOURCE_FILTER6) @name("source_filter6")
    table source_filter6 {
        key = { hdr.ipv6.src_addr: exact @name("src_addr"); }
        actions = { guard; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_VIPS;
    }

    apply {
        if (meta.replica == 0) {
            if (hdr.ipv4.isValid()) {
                source_filter.apply();
            } else if (hdr.ipv6.isValid()) {
                source_filter6.apply();
            }
        }
    }
}
