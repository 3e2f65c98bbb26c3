// SPDX-License-Identifier: Apache-2.0
// Nobody but a pair's own servers may send from its VIPs: this is for packets in
// which no replica was recognised, by port, MAC and VIP together.

control SourceFilter(inout headers_t hdr, inout metadata_t meta) {
    @id(ID_ACTION_GUARD) @name("guard")
    action guard() {
        drop(meta, DROP_SPOOFED);
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
        if (hdr.ipv4.isValid()) {
            source_filter.apply();
        } else {
            source_filter6.apply();
        }
    }
}
