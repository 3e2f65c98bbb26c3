// SPDX-License-Identifier: Apache-2.0
// What this program does not route at all.

control Routable(in headers_t hdr, inout metadata_t meta) {
    apply {
        if (hdr.ipv4.isValid()) {
            // RFC 1812 section 5.2.2: the length holds the header, of ihl words.
            bit<16> needed = (bit<16>)hdr.ipv4.ihl << 2;
            bit<16> missing = needed |-| hdr.ipv4.total_len;
            if (missing != 0) {
                drop(meta, DROP_PARSER);
            } else if (hdr.ipv4.ttl <= 1) {
                drop(meta, DROP_TTL);
            }
        } else if (hdr.ipv6.isValid()) {
            if (hdr.ipv6.hop_limit <= 1) {
                drop(meta, DROP_TTL);
            }
        } else {
            drop(meta, DROP_NOT_IP);
        }
    }
}
