// SPDX-License-Identifier: Apache-2.0
// Headers as they stand on the wire, shared by the v1model and the TNA build.

#ifndef UNDERSTUDY_HEADERS_P4
#define UNDERSTUDY_HEADERS_P4

typedef bit<48>  mac_t;
typedef bit<32>  ipv4_addr_t;
typedef bit<128> ipv6_addr_t;
typedef bit<16>  pair_id_t;
typedef bit<16>  rid_t;         // replication id: one per server and pair
typedef bit<8>   replica_id_t;  // which server of its pair; 0 is none
typedef bit<32>  epoch_t;

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<16> ETHERTYPE_ARP  = 0x0806;
const bit<16> ETHERTYPE_IPV6 = 0x86dd;

const bit<8> PROTOCOL_TCP    = 6;
const bit<8> PROTOCOL_UDP    = 17;
const bit<8> PROTOCOL_ICMPV6 = 58;

const bit<16> ARP_REQUEST = 1;
const bit<16> ARP_REPLY   = 2;

const bit<8> ICMPV6_NEIGHBOUR_SOLICITATION  = 135;
const bit<8> ICMPV6_NEIGHBOUR_ADVERTISEMENT = 136;

header ethernet_t {
    mac_t   dst_addr;
    mac_t   src_addr;
    bit<16> ether_type;
}

// RFC 826 for Ethernet and IPv4.
header arp_t {
    bit<16>     hw_type;
    bit<16>     proto_type;
    bit<8>      hw_len;
    bit<8>      proto_len;
    bit<16>     opcode;
    mac_t       sender_mac;
    ipv4_addr_t sender_ip;
    mac_t       target_mac;
    ipv4_addr_t target_ip;
}

header ipv4_t {
    bit<4>      version;
    bit<4>      ihl;
    bit<8>      tos;
    bit<16>     total_len;
    bit<16>     identification;
    bit<1>      reserved;
    bit<1>      dont_fragment;
    bit<1>      more_fragments;
    bit<13>     fragment_offset;
    bit<8>      ttl;
    bit<8>      protocol;
    bit<16>     checksum;
    ipv4_addr_t src_addr;
    ipv4_addr_t dst_addr;
}

header ipv4_options_t {
    varbit<320> bytes;
}

header ipv6_t {
    bit<4>      version;
    bit<8>      traffic_class;
    bit<20>     flow_label;
    bit<16>     payload_len;
    bit<8>      next_header;
    bit<8>      hop_limit;
    ipv6_addr_t src_addr;
    ipv6_addr_t dst_addr;
}

header tcp_t {
    bit<16> src_port;
    bit<16> dst_port;
    bit<32> seq_no;
    bit<32> ack_no;
    bit<4>  data_offset;
    bit<4>  reserved;
    bit<8>  flags;
    bit<16> window;
    bit<16> checksum;
    bit<16> urgent_ptr;
}

header udp_t {
    bit<16> src_port;
    bit<16> dst_port;
    bit<16> len;
    bit<16> checksum;
}

header icmp_t {
    bit<8>  type;
    bit<8>  code;
    bit<16> checksum;
}

// RFC 4861 section 4.3 and 4.4: what follows the ICMPv6 header of a neighbour
// solicitation or advertisement, with one link-layer address option.
header neighbour_t {
    bit<32>     flags;
    ipv6_addr_t target;
    bit<8>      option_type;
    bit<8>      option_len;
    mac_t       option_mac;
}

// What the controller reads before a packet that was punted, and writes before
// one that it sends (P4Runtime 1.5, section 6.4.6).
@controller_header("packet_in")
header packet_in_t {
    @id(1) bit<9> ingress_port;
    @id(2) bit<7> pad;
}

@controller_header("packet_out")
header packet_out_t {
    @id(1) bit<9> egress_port;
    @id(2) bit<7> pad;
}

struct headers_t {
    packet_out_t   packet_out;
    packet_in_t    packet_in;
    ethernet_t     ethernet;
    arp_t          arp;
    ipv4_t         ipv4;
    ipv4_options_t ipv4_options;
    ipv6_t         ipv6;
    icmp_t         icmp;
    neighbour_t    neighbour;
    tcp_t          tcp;
    udp_t          udp;
}

// Everything that one control tells another about the packet in hand.
struct metadata_t {
    bit<16>      dst_port;       // of TCP or UDP, 0 for anything else
    pair_id_t    pair;
    replica_id_t replica;        // whose packet this is; 0: no replica's
    replica_id_t active;         // whose packets leave; 0: nobody's
    epoch_t      epoch;
    rid_t        rid;            // whom egress rewrites for; 0: nobody
    bit<8>       drop_reason;    // DROP_*; 0: not dropped
    bit<1>       is_fragment;
    bit<1>       done;           // a control has decided where the packet goes
    bit<1>       shadow;         // cut to its headers at egress
    bit<1>       nd_reply;       // a neighbour advertisement that we wrote
}

#endif
