// SPDX-License-Identifier: Apache-2.0
// What the checksums are made of that this program verifies or writes. TCP and UDP
// checksums are never touched: nothing that they cover changes.

#ifndef UNDERSTUDY_CHECKSUMS_P4
#define UNDERSTUDY_CHECKSUMS_P4

// RFC 791: the header without its checksum.
#define IPV4_FIELDS \
    hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, \
    hdr.ipv4.identification, hdr.ipv4.reserved, hdr.ipv4.dont_fragment, \
    hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, hdr.ipv4.ttl, \
    hdr.ipv4.protocol, hdr.ipv4.src_addr, hdr.ipv4.dst_addr

// RFC 4443 section 2.3: the pseudo-header of RFC 8200 section 8.1, then the message.
#define NEIGHBOUR_FIELDS \
    hdr.ipv6.src_addr, hdr.ipv6.dst_addr, 16w0, hdr.ipv6.payload_len, \
    24w0, hdr.ipv6.next_header, \
    hdr.icmp.type, hdr.icmp.code, hdr.neighbour.flags, hdr.neighbour.target

#define NEIGHBOUR_OPTION_FIELDS \
    hdr.neighbour_option.type, hdr.neighbour_option.len, hdr.neighbour_option.mac

#endif
