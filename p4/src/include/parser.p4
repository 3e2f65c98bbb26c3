// SPDX-License-Identifier: Apache-2.0
// States from the first byte of a frame to the end of the transport header, which
// the parser of each architecture includes and enters at `frame`.
//
// A header that is not all there is an error of the architecture's; one that
// contradicts itself is malformed here. Both are dropped, and counted as such.

state frame {
    packet.extract(hdr.ethernet);
    transition select(hdr.ethernet.ether_type) {
        ETHERTYPE_ARP: arp;
        ETHERTYPE_IPV4: ipv4;
        ETHERTYPE_IPV6: ipv6;
        default: accept;
    }
}

state malformed {
    meta.drop_reason = DROP_PARSER;
    meta.done = 1;
    transition accept;
}

state arp {
    packet.extract(hdr.arp);
    transition accept;
}

// ---- IPv4: RFC 1812 section 5.2.2 ----

state ipv4 {
    packet.extract(hdr.ipv4);
    IPV4_EXTRACTED
    meta.protocol = hdr.ipv4.protocol;
    transition select(hdr.ipv4.version, hdr.ipv4.ihl) {
        (4, 0 &&& 0xc): malformed;  // 0 to 3
        (4, 4): malformed;
        (4, 5): ipv4_payload;
        (4, _): ipv4_options;
        default: malformed;
    }
}

state ipv4_options {
    packet.extract(hdr.ipv4_options, (bit<32>)(((bit<16>)hdr.ipv4.ihl - 5) * 32));
    IPV4_OPTIONS_EXTRACTED
    transition ipv4_payload;
}

// Only a first fragment carries ports, and they must not part it from the rest:
// no port is read of any fragment. Each has port 0.
state ipv4_payload {
    IPV4_COMPLETE
    transition select(hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
        (0, 0, PROTOCOL_TCP): tcp;
        (0, 0, PROTOCOL_UDP): udp;
        (0, 0, _): accept;
        default: fragment;
    }
}

state fragment {
    meta.is_fragment = 1;
    transition accept;
}

// ---- IPv6 ----

// Of the extension headers only that of a fragment is known. A packet with
// another one is a service's only if there is one for that protocol.
state ipv6 {
    packet.extract(hdr.ipv6);
    meta.protocol = hdr.ipv6.next_header;
    transition select(hdr.ipv6.version, hdr.ipv6.next_header) {
        (6, PROTOCOL_TCP): tcp;
        (6, PROTOCOL_UDP): udp;
        (6, PROTOCOL_ICMPV6): icmp;
        (6, PROTOCOL_IPV6_FRAGMENT): ipv6_fragment;
        (6, _): accept;
        default: malformed;
    }
}

state ipv6_fragment {
    packet.extract(hdr.ipv6_fragment);
    meta.protocol = hdr.ipv6_fragment.next_header;
    transition fragment;
}

state icmp {
    packet.extract(hdr.icmp);
    transition select(hdr.icmp.type, hdr.ipv6.payload_len) {
        (ICMPV6_NEIGHBOUR_SOLICITATION, 24): neighbour;
        (ICMPV6_NEIGHBOUR_SOLICITATION, 32): neighbour_with_option;
        default: accept;
    }
}

state neighbour {
    packet.extract(hdr.neighbour);
    transition accept;
}

state neighbour_with_option {
    packet.extract(hdr.neighbour);
    packet.extract(hdr.neighbour_option);
    transition accept;
}

// ---- transport ----

state tcp {
    packet.extract(hdr.tcp);
    meta.src_port = hdr.tcp.src_port;
    meta.dst_port = hdr.tcp.dst_port;
    transition accept;
}

state udp {
    packet.extract(hdr.udp);
    meta.src_port = hdr.udp.src_port;
    meta.dst_port = hdr.udp.dst_port;
    transition select(hdr.udp.len) {
        32 &&& 0xffe0: maybe_heartbeat;     // 24 bytes or a little more
        default: accept;
    }
}

state maybe_heartbeat {
    transition select(packet.lookahead<bit<24>>()) {
        HEARTBEAT_MAGIC: heartbeat;
        default: accept;
    }
}

state heartbeat {
    packet.extract(hdr.heartbeat);
    transition accept;
}
