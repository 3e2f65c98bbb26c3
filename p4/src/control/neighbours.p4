// SPDX-License-Identifier: Apache-2.0
// Answers ARP requests and IPv6 neighbour solicitations for VIPs and gateway
// addresses, out of the port on which they came.

control Neighbours(inout headers_t hdr,
                   inout metadata_t meta,
                   inout standard_metadata_t std) {
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
        std.egress_spec = std.ingress_port;
    }

    // RFC 4861 section 7.2.4: solicited, override, and sent by a router.
    @id(ID_ACTION_ND_ANSWER)
    action nd_answer(@id(1) mac_t mac) {
        hdr.ipv6.dst_addr = hdr.ipv6.src_addr;
        hdr.ipv6.src_addr = hdr.neighbour.target;
        hdr.ipv6.hop_limit = 255;
        hdr.icmp.type = ICMPV6_NEIGHBOUR_ADVERTISEMENT;
        hdr.neighbour.flags = 0xe0000000;
        hdr.neighbour.option_type = 2;
        hdr.neighbour.option_mac = mac;
        hdr.ethernet.dst_addr = hdr.ethernet.src_addr;
        hdr.ethernet.src_addr = mac;
        std.egress_spec = std.ingress_port;
        meta.nd_reply = 1;
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
        if (hdr.arp.isValid() && hdr.arp.opcode == ARP_REQUEST) {
            if (arp_reply.apply().hit) {
                meta.done = 1;
            }
        } else if (hdr.neighbour.isValid() && hdr.icmp.code == 0
                   && hdr.ipv6.hop_limit == 255 && hdr.neighbour.option_type == 1) {
            if (nd_reply.apply().hit) {
                meta.done = 1;
            }
        }
    }
}
