// SPDX-License-Identifier: Apache-2.0
// Answers ARP requests and IPv6 neighbour solicitations for VIPs and gateway
// addresses, out of the port on which they came. Any other of them ends here:
// neither is routed.

control Neighbours(inout headers_t hdr, inout metadata_t meta) {
    // RFC 826: swap the two ends and fill in the address that was asked for.
    @id(ID_ACTION_ARP_ANSWER)
    action arp_answer(@id(1) mac_t mac) {
        ipv4_addr_t asked = hdr.arp.target_ip;
        hdr.arp.opcode = ARP_REPLY;
        hdr.arp.target_mac = hdr.arp.sender_mac;
        hdr.arp.target_ip = hdr.arp.sender_ip;
        hdr.arp.sender_mac = mac;
        hdr.arp.sender_ip = asked;
        hdr.ethernet.dst_addr = hdr.ethernet.src_addr;
        hdr.ethernet.src_addr = mac;
        meta.egress_port = meta.ingress_port;
        meta.done = 1;
    }

    // RFC 4861 section 7.2.4: solicited, override, and sent by a router. With the
    // option, which a solicitation sent to a group requires.
    @id(ID_ACTION_ND_ANSWER)
    action nd_answer(@id(1) mac_t mac) {
        hdr.ipv6.dst_addr = hdr.ipv6.src_addr;
        hdr.ipv6.src_addr = hdr.neighbour.target;
        hdr.ipv6.payload_len = 32;
        hdr.ipv6.hop_limit = 255;
        hdr.icmp.type = ICMPV6_NEIGHBOUR_ADVERTISEMENT;
        hdr.neighbour.flags = ADVERTISEMENT_ROUTER | ADVERTISEMENT_SOLICITED | ADVERTISEMENT_OVERRIDE;
        hdr.neighbour_option.setValid();
        hdr.neighbour_option.type = OPTION_TARGET_LINK_LAYER;
        hdr.neighbour_option.len = 1;
        hdr.neighbour_option.mac = mac;
        hdr.ethernet.dst_addr = hdr.ethernet.src_addr;
        hdr.ethernet.src_addr = mac;
        meta.egress_port = meta.ingress_port;
        meta.nd_reply = 1;
        meta.done = 1;
    }

    @id(ID_TABLE_ARP_REPLY) @name("arp_reply")
    table arp_reply {
        key = { hdr.arp.target_ip: exact @name("target_ip"); }
        actions = { arp_answer; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_VIPS;
    }

    @id(ID_TABLE_ND_REPLY) @name("nd_reply")
    table nd_reply {
        key = { hdr.neighbour.target: exact @name("target_ip"); }
        actions = { nd_answer; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_VIPS;
    }

    apply {
        if (hdr.arp.isValid()) {
            if (hdr.arp.opcode == ARP_REQUEST
                && hdr.arp.hw_type == ARP_ETHERNET && hdr.arp.proto_type == ETHERTYPE_IPV4
                && hdr.arp.hw_len == 6 && hdr.arp.proto_len == 4) {
                arp_reply.apply();
            }
            if (meta.done == 0) {
                drop(meta, DROP_NEIGHBOUR);
            }
        } else if (hdr.neighbour.isValid()) {
            // RFC 4861 section 7.1.1. The length of an option is not 0, and one that
            // is longer than what is there contradicts the payload's length.
            bool valid = hdr.ipv6.hop_limit == 255 && hdr.icmp.code == 0
                && (!hdr.neighbour_option.isValid() || hdr.neighbour_option.len == 1);
            // Who has no address yet asks the group of the address that it wants, gives
            // no link-layer address, and is answered by way of all nodes, unsolicited.
            bool unspecified = hdr.ipv6.src_addr == IPV6_UNSPECIFIED;
            if (unspecified && (hdr.ipv6.dst_addr[127:24] != IPV6_SOLICITED_NODE
                || (hdr.neighbour_option.isValid() && hdr.neighbour_option.type == OPTION_SOURCE_LINK_LAYER))) {
                valid = false;
            }
            if (valid) {
                nd_reply.apply();
            }
            if (meta.done == 0) {
                drop(meta, DROP_NEIGHBOUR);
            } else if (unspecified) {
                hdr.ipv6.dst_addr = IPV6_ALL_NODES;
                hdr.ethernet.dst_addr = MAC_ALL_NODES;
                hdr.neighbour.flags = ADVERTISEMENT_ROUTER | ADVERTISEMENT_OVERRIDE;
            }
        }
    }
}
