// SPDX-License-Identifier: Apache-2.0
// Every number that something outside this program relies on: P4Runtime ids,
// table sizes, the CPU port, drop reasons. p4/names.go is generated from the
// P4Info that p4c makes of them.
//
// P4Runtime 1.5, section 6.3.9: the top byte of an id names the kind of object
// (0x01 action, 0x02 table, ...).

#ifndef UNDERSTUDY_IDS_P4
#define UNDERSTUDY_IDS_P4

// ---- tables ----
#define ID_TABLE_PUNT             0x02000001
#define ID_TABLE_ARP_REPLY        0x02000002
#define ID_TABLE_ND_REPLY         0x02000003
#define ID_TABLE_HEARTBEAT        0x02000004
#define ID_TABLE_VIP              0x02000010
#define ID_TABLE_VIP6             0x02000011
#define ID_TABLE_REPLICA          0x02000020
#define ID_TABLE_REPLICA6         0x02000021
#define ID_TABLE_ACTIVE           0x02000030
#define ID_TABLE_SHADOW           0x02000031
#define ID_TABLE_SOURCE_FILTER    0x02000040
#define ID_TABLE_SOURCE_FILTER6   0x02000041
#define ID_TABLE_ROUTE            0x02000050
#define ID_TABLE_ROUTE6           0x02000051
#define ID_TABLE_REPLICA_REWRITE  0x02000060

// ---- actions ----
#define ID_ACTION_TO_CONTROLLER   0x01000001
#define ID_ACTION_ARP_ANSWER      0x01000002
#define ID_ACTION_ND_ANSWER       0x01000003
#define ID_ACTION_HEARTBEAT_OF    0x01000004
#define ID_ACTION_DUPLICATE       0x01000010
#define ID_ACTION_DUPLICATE6      0x01000011
#define ID_ACTION_FROM_REPLICA    0x01000020
#define ID_ACTION_SET_ACTIVE      0x01000030
#define ID_ACTION_SHADOW_TO       0x01000031
#define ID_ACTION_SET_ACTIVE_WATCHED 0x01000032
#define ID_ACTION_GUARD           0x01000040
#define ID_ACTION_FORWARD         0x01000050
#define ID_ACTION_FORWARD6        0x01000051
#define ID_ACTION_REWRITE         0x01000060

// ---- counters ----
#define ID_COUNTER_REPLICA        0x12000001
#define ID_COUNTER_DROP           0x12000002
#define ID_COUNTER_COPY           0x12000003
#define ID_COUNTER_VIP            0x13000001
#define ID_COUNTER_VIP6           0x13000002

// ---- registers ----
#define ID_REGISTER_HEARD         0x16000001
#define ID_REGISTER_LATCH         0x16000002

// ---- sizes ----
#define SIZE_SERVICES   16384   // vip: one entry per (address, protocol, port)
#define SIZE_REPLICAS    4096   // replica: one entry per (server, VIP)
#define SIZE_PAIRS       1024   // active; their ids are from 1 to that
#define SIZE_VIPS       16384   // source filter, ARP and neighbour replies
#define SIZE_ROUTES      4096
#define SIZE_RIDS        4096   // replica_rewrite and the per-replica counters
#define SIZE_PUNT          64
#define SIZE_SERVERS     4096   // heartbeat: one entry per server of a pair that is watched

// ---- ports ----
#ifndef CPU_PORT                // a Tofino has it elsewhere: arch/tna.p4
#define CPU_PORT   510          // packet-in and packet-out
#endif
#define DROP_PORT  511          // v1model's mark_to_drop; no port of anything

// ---- what became of a packet of a replica: replica_counter[rid * 4 + verdict] ----
#define VERDICT_RELEASED    0   // sent on to the client
#define VERDICT_SUPPRESSED  1   // withheld
#define VERDICT_SHADOWED    2   // of those, headers sent to the active server

// ---- why a packet was dropped: index of drop_counter ----
#define DROP_PARSER         1   // truncated or malformed headers
#define DROP_TTL            2   // TTL or hop limit used up
#define DROP_NO_ROUTE       3   // no route to the destination
#define DROP_SPOOFED        4   // a VIP as source, from where no replica of it is
#define DROP_SUPPRESSED     5   // from a replica that is not the active one
#define DROP_NOT_IP         6   // an EtherType that is not routed
#define DROP_NO_ACTIVE      7   // from a replica of a pair that has no active entry
#define DROP_CHECKSUM       8   // wrong IPv4 header or neighbour solicitation checksum
#define DROP_NEIGHBOUR      9   // ARP or a neighbour solicitation for an address not answered here
#define DROP_FRAGMENT      10   // a fragment for neither a service that takes them nor a route
#define DROP_REASONS       16

#endif
