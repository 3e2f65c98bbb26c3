// SPDX-License-Identifier: Apache-2.0
// Checksums: IPv4 headers are verified on arrival and recomputed on the way out
// (the TTL changes); a neighbour advertisement is one that we wrote ourselves.
// TCP and UDP checksums are never touched: nothing that they cover changes.

#define IPV4_CHECKSUM_FIELDS { \
    hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, \
    hdr.ipv4.identification, hdr.ipv4.reserved, hdr.ipv4.dont_fragment, \
    hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, hdr.ipv4.ttl, \
    hdr.ipv4.protocol, hdr.ipv4.src_addr, hdr.ipv4.dst_addr }

#define IPV4_CHECKSUM_FIELDS_WITH_OPTIONS { \
    hdr.ipv4.version, hdr.ipv4.ihl, hdr.ipv4.tos, hdr.ipv4.total_len, \
    hdr.ipv4.identification, hdr.ipv4.reserved, hdr.ipv4.dont_fragment, \
    hdr.ipv4.more_fragments, hdr.ipv4.fragment_offset, hdr.ipv4.ttl, \
    hdr.ipv4.protocol, hdr.ipv4.src_addr, hdr.ipv4.dst_addr, hdr.ipv4_options.bytes }

control VerifyChecksums(inout headers_t hdr, inout metadata_t meta) {
    apply {
        verify_checksum(hdr.ipv4.isValid() && !hdr.ipv4_options.isValid(),
            IPV4_CHECKSUM_FIELDS, hdr.ipv4.checksum, HashAlgorithm.csum16);
        verify_checksum(hdr.ipv4.isValid() && hdr.ipv4_options.isValid(),
            IPV4_CHECKSUM_FIELDS_WITH_OPTIONS, hdr.ipv4.checksum, HashAlgorithm.csum16);
    }
}

control ComputeChecksums(inout headers_t hdr, inout metadata_t meta) {
    apply {
        update_checksum(hdr.ipv4.isValid() && !hdr.ipv4_options.isValid(),
            IPV4_CHECKSUM_FIELDS, hdr.ipv4.checksum, HashAlgorithm.csum16);
        update_checksum(hdr.ipv4.isValid() && hdr.ipv4_options.isValid(),
            IPV4_CHECKSUM_FIELDS_WITH_OPTIONS, hdr.ipv4.checksum, HashAlgorithm.csum16);
        // RFC 4443 section 2.3: the pseudo-header of RFC 8200, then the message.
        update_checksum(meta.nd_reply == 1,
            { hdr.ipv6.src_addr, hdr.ipv6.dst_addr, 16w0, hdr.ipv6.payload_len,
              24w0, hdr.ipv6.next_header,
              hdr.icmp.type, hdr.icmp.code,
              hdr.neighbour.flags, hdr.neighbour.target,
              hdr.neighbour.option_type, hdr.neighbour.option_len, hdr.neighbour.option_mac },
            hdr.icmp.checksum, HashAlgorithm.csum16);
    }
}
