// SPDX-License-Identifier: Apache-2.0
// From the first byte to the end of the transport header.

parser UnderstudyParser(packet_in packet,
                        out headers_t hdr,
                        inout metadata_t meta,
                        inout standard_metadata_t std) {
    state start {
        transition select(std.ingress_port) {
            CPU_PORT: controller;
            default: ethernet;
        }
    }

    state controller {
        packet.extract(hdr.packet_out);
        transition ethernet;
    }

    state ethernet {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_ARP: arp;
            ETHERTYPE_IPV4: ipv4;
            ETHERTYPE_IPV6: ipv6;
            default: accept;
        }
    }

    state arp {
        packet.extract(hdr.arp);
        transition accept;
    }

    state ipv4 {
        packet.extract(hdr.ipv4);
        verify(hdr.ipv4.version == 4 && hdr.ipv4.ihl >= 5, error.HeaderTooShort);
        transition select(hdr.ipv4.ihl) {
            5: ipv4_payload;
            default: ipv4_options;
        }
    }

    state ipv4_options {
        packet.extract(hdr.ipv4_options, (bit<32>)(((bit<16>)hdr.ipv4.ihl - 5) * 32));
        transition ipv4_payload;
    }

    // Only the first fragment carries ports. Neither it nor the later ones can
    // be told apart by service, so no port is read from any of them.
    state ipv4_payload {
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

    // Extension headers are not walked: such a packet is routed, never duplicated.
    state ipv6 {
        packet.extract(hdr.ipv6);
        transition select(hdr.ipv6.next_header) {
            PROTOCOL_TCP: tcp;
            PROTOCOL_UDP: udp;
            PROTOCOL_ICMPV6: icmp;
            default: accept;
        }
    }

    state icmp {
        packet.extract(hdr.icmp);
        transition select(hdr.icmp.type) {
            ICMPV6_NEIGHBOUR_SOLICITATION: neighbour;
            default: accept;
        }
    }

    // A solicitation without exactly one link-layer option is left to routing.
    state neighbour {
        transition select(hdr.ipv6.payload_len) {
            32: neighbour_option;
            default: accept;
        }
    }

    state neighbour_option {
        packet.extract(hdr.neighbour);
        transition accept;
    }

    state tcp {
        packet.extract(hdr.tcp);
        meta.dst_port = hdr.tcp.dst_port;
        transition accept;
    }

    state udp {
        packet.extract(hdr.udp);
        meta.dst_port = hdr.udp.dst_port;
        transition accept;
    }
}
