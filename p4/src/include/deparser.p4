// SPDX-License-Identifier: Apache-2.0
// Headers in the order in which they leave.

control FrameDeparser(packet_out packet, in headers_t hdr) {
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.arp);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.ipv4_options);
        packet.emit(hdr.ipv6);
        packet.emit(hdr.ipv6_fragment);
        packet.emit(hdr.icmp);
        packet.emit(hdr.neighbour);
        packet.emit(hdr.neighbour_option);
        packet.emit(hdr.tcp);
        packet.emit(hdr.udp);
        packet.emit(hdr.heartbeat);
    }
}
