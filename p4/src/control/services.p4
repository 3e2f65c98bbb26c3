// SPDX-License-Identifier: Apache-2.0
// A client's packet for a service (VIP, protocol, port) is copied to every server
// of the pair that backs it. ICMP to a VIP is a service with port 0: path MTU
// errors must reach both copies of a connection.

control Services(inout headers_t hdr,
                 inout metadata_t meta,
                 inout standard_metadata_t std) {
    direct_counter(CounterType.packets_and_bytes) vip_counter;
    direct_counter(CounterType.packets_and_bytes) vip6_counter;

    @id(ID_ACTION_DUPLICATE) @name("duplicate")
    action duplicate(@id(1) bit<16> group) {
        std.mcast_grp = group;
        vip_counter.count();
    }

    @id(ID_ACTION_DUPLICATE6) @name("duplicate6")
    action duplicate6(@id(1) bit<16> group) {
        std.mcast_grp = group;
        vip6_counter.count();
    }

    @id(ID_TABLE_VIP) @name("vip")
    table vip {
        key = {
            hdr.ipv4.dst_addr: exact @name("dst_addr");
            hdr.ipv4.protocol: exact @name("protocol");
            meta.dst_port:     exact @name("dst_port");
        }
        actions = { duplicate; @defaultonly NoAction; }
        const default_action = NoAction();
        counters = vip_counter;
        size = SIZE_SERVICES;
    }

    @id(ID_TABLE_VIP6) @name("vip6")
    table vip6 {
        key = {
            hdr.ipv6.dst_addr:    exact @name("dst_addr");
            hdr.ipv6.next_header: exact @name("protocol");
            meta.dst_port:        exact @name("dst_port");
        }
        actions = { duplicate6; @defaultonly NoAction; }
        const default_action = NoAction();
        counters = vip6_counter;
        size = SIZE_SERVICES;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            if (meta.is_fragment == 0 && vip.apply().hit) {
                hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
                meta.done = 1;
            }
        } else if (hdr.ipv6.isValid()) {
            if (vip6.apply().hit) {
                hdr.ipv6.hop_limit = hdr.ipv6.hop_limit - 1;
                meta.done = 1;
            }
        }
    }
}
