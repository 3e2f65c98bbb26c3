// SPDX-License-Identifier: Apache-2.0
// Headers as they stand on the wire.

#ifndef UNDERSTUDY_HEADERS_P4
#define UNDERSTUDY_HEADERS_P4

typedef bit<48>  mac_t;
typedef bit<32>  ipv4_addr_t;
typedef bit<128> ipv6_addr_t;
typedef bit<9>   port_t;

typedef bit<16> pair_id_t;
typedef bit<8>  replica_id_t;   // which server of its pair; 0 is none
typedef bit<16> rid_t;          // replication id: one per server and pair
typedef bit<16> group_id_t;     // multicast group
typedef bit<32> epoch_t;

const bit<16> ETHERTYPE_IPV4 = 0x0800;
const bit<16> ETHERTYPE_ARP  = 0x0806;
const bit<16> ETHERTYPE_IPV6 = 0x86dd;

const bit<8> PROTOCOL_TCP           = 6;
const bit<8> PROTOCOL_UDP           = 17;
const bit<8> PROTOCOL_IPV6_FRAGMENT = 44;
const bit<8> PROTOCOL_ICMPV6        = 58;

header ethernet_t {
    mac_t   dst_addr;
    mac_t   src_addr;
    bit<16> ether_type;
}

// ---- ARP ----

const bit<16> ARP_ETHERNET = 1;
const bit<16> ARP_REQUEST  = 1;
const bit<16> ARP_REPLY    = 2;

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

// ---- IPv4 ----

header ipv4_t {
    bit<4>      version;
    bit<4>      ihl;                // in words of 4 bytes
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

// ---- IPv6 ----

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

// RFC 8200 section 4.5.
header ipv6_fragment_t {
    bit<8>  next_header;
    bit<8>  reserved;
    bit<13> offset;
    bit<2>  reserved2;
    bit<1>  more;
    bit<32> identification;
}

// ---- ICMPv6 ----

const bit<8> ICMPV6_NEIGHBOUR_SOLICITATION  = 135;
const bit<8> ICMPV6_NEIGHBOUR_ADVERTISEMENT = 136;

const bit<8> OPTION_SOURCE_LINK_LAYER = 1;
const bit<8> OPTION_TARGET_LINK_LAYER = 2;

const bit<32> ADVERTISEMENT_ROUTER    = 0x80000000;
const bit<32> ADVERTISEMENT_SOLICITED = 0x40000000;
const bit<32> ADVERTISEMENT_OVERRIDE  = 0x20000000;

const ipv6_addr_t IPV6_UNSPECIFIED    = 0;
const ipv6_addr_t IPV6_ALL_NODES      = 0xff020000000000000000000000000001;
const bit<104>    IPV6_SOLICITED_NODE = 0xff0200000000000000000001ff;   // RFC 4291 section 2.7.1
const mac_t       MAC_ALL_NODES       = 0x333300000001;   // RFC 2464 section 7

header icmp_t {
    bit<8>  type;
    bit<8>  code;
    bit<16> checksum;
}

// RFC 4861 sections 4.3 and 4.4: what follows the ICMPv6 header of a neighbour
// solicitation or advertisement.
header neighbour_t {
    bit<32>     flags;
    ipv6_addr_t target;
}

// RFC 4861 section 4.6.1: a link-layer address, or anything else of 8 bytes.
header neighbour_option_t {
    bit<8> type;
    bit<8> len;                     // in words of 8 bytes
    mac_t  mac;
}

// ---- transport ----

header tcp_t {
    bit<16> src_port;
    bit<16> dst_port;
    bit<32> seq_no;
    bit<32> ack_no;
    bit<4>  data_offset;            // in words of 4 bytes
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

// ---- heartbeats ----

const bit<24> HEARTBEAT_MAGIC = 0x554401;   // "UD", version 1

const bit<8> HEARTBEAT_ROLE_ACTIVE = 1;
const bit<8> HEARTBEAT_ROLE_BACKUP = 2;

// docs/heartbeat.md: the payload of the UDP datagrams in which servers say that they
// live.
header heartbeat_t {
    bit<24>      magic;
    bit<6>       flags;
    bit<1>       in_step;           // a backup that holds what the active server has told clients
    bit<1>       application_up;
    pair_id_t    pair;
    replica_id_t replica;
    bit<8>       role;              // HEARTBEAT_ROLE_*
    epoch_t      epoch;             // of the role
    bit<32>      sequence;
    bit<64>      instance;
}

// ---- the controller ----

// What the controller reads before a packet that was punted, and writes before
// one that it sends (P4Runtime 1.5, section 6.4.6).
@controller_header("packet_in")
header packet_in_t {
    @id(1) port_t       ingress_port;
    @id(2) bit<7>       pad;
    @id(3) replica_id_t released;   // whom the watchdog has released in the sender's pair; 0: nobody
    @id(4) epoch_t      epoch;      // in which
}

@controller_header("packet_out")
header packet_out_t {
    @id(1) port_t egress_port;
    @id(2) bit<7> pad;
}

struct headers_t {
    ARCH_HEADERS
    packet_out_t       packet_out;
    packet_in_t        packet_in;
    ethernet_t         ethernet;
    arp_t              arp;
    ipv4_t             ipv4;
    ipv4_options_t     ipv4_options;
    ipv6_t             ipv6;
    ipv6_fragment_t    ipv6_fragment;
    icmp_t             icmp;
    neighbour_t        neighbour;
    neighbour_option_t neighbour_option;
    tcp_t              tcp;
    udp_t              udp;
    heartbeat_t        heartbeat;
}

#endif
