// SPDX-License-Identifier: Apache-2.0
// A client's packet for a service (VIP, protocol, port) is copied to every server
// of the pair that backs it. ICMP to a VIP is a service with port 0: path MTU
// errors must reach both copies of a connection. So are fragments, of which only
// some carry a port: an entry for port 0 takes all of its protocol.

control Services(inout headers_t hdr, inout metadata_t meta) {
    @id(ID_COUNTER_VIP) @name("vip_counter")
    DIRECT_COUNTER vip_counter;
    @id(ID_COUNTER_VIP6) @name("vip6_counter")
    DIRECT_COUNTER vip6_counter;

    @id(ID_ACTION_DUPLICATE) @name("duplicate")
    action duplicate(@id(1) group_id_t group) {
        meta.group = group;
        meta.done = 1;
        hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
        COUNT_DIRECT(vip_counter)
    }

    @id(ID_ACTION_DUPLICATE6) @name("duplicate6")
    action duplicate6(@id(1) group_id_t group) {
        meta.group = group;
        meta.done = 1;
        hdr.ipv6.hop_limit = hdr.ipv6.hop_limit - 1;
        COUNT_DIRECT(vip6_counter)
    }

    @id(ID_TABLE_VIP) @name("vip")
    table vip {
        key = {
            hdr.ipv4.dst_addr: exact @name("dst_addr");
            meta.protocol:     exact @name("protocol");
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
            hdr.ipv6.dst_addr: exact @name("dst_addr");
            meta.protocol:     exact @name("protocol");
            meta.dst_port:     exact @name("dst_port");
        }
        actions = { duplicate6; @defaultonly NoAction; }
        const default_action = NoAction();
        counters = vip6_counter;
        size = SIZE_SERVICES;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            vip.apply();
        } else {
            vip6.apply();
        }
    }
}
