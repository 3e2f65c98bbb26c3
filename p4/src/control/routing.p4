// SPDX-License-Identifier: Apache-2.0
// Everything else is routed, longest prefix first.

control Routing(inout headers_t hdr, inout metadata_t meta) {
    @id(ID_ACTION_FORWARD) @name("forward")
    action forward(@id(1) port_t port, @id(2) mac_t dst_mac, @id(3) mac_t src_mac) {
        meta.egress_port = port;
        meta.done = 1;
        hdr.ethernet.dst_addr = dst_mac;
        hdr.ethernet.src_addr = src_mac;
        hdr.ipv4.ttl = hdr.ipv4.ttl - 1;
    }

    @id(ID_ACTION_FORWARD6) @name("forward6")
    action forward6(@id(1) port_t port, @id(2) mac_t dst_mac, @id(3) mac_t src_mac) {
        meta.egress_port = port;
        meta.done = 1;
        hdr.ethernet.dst_addr = dst_mac;
        hdr.ethernet.src_addr = src_mac;
        hdr.ipv6.hop_limit = hdr.ipv6.hop_limit - 1;
    }

    @id(ID_TABLE_ROUTE) @name("route")
    table route {
        key = { hdr.ipv4.dst_addr: lpm @name("dst_addr"); }
        actions = { forward; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_ROUTES;
    }

    @id(ID_TABLE_ROUTE6) @name("route6")
    table route6 {
        key = { hdr.ipv6.dst_addr: lpm @name("dst_addr"); }
        actions = { forward6; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_ROUTES;
    }

    apply {
        if (hdr.ipv4.isValid()) {
            route.apply();
        } else {
            route6.apply();
        }
        if (meta.done == 0) {
            if (meta.is_fragment == 1) {
                drop(meta, DROP_FRAGMENT);
            } else {
                drop(meta, DROP_NO_ROUTE);
            }
        }
    }
}
