// SPDX-License-Identifier: Apache-2.0
// To and from the controller: a packet-out goes, as it is, to the port that it
// names; what the `punt` table names (heartbeats of agents) goes to the controller,
// with the port on which it came. The watchdog hears heartbeats too, of the servers
// that `heartbeat` names.

control PacketIo(inout headers_t hdr, inout metadata_t meta) {
    @id(ID_ACTION_TO_CONTROLLER)
    action to_controller() {
        hdr.packet_in.setValid();
        hdr.packet_in.ingress_port = meta.ingress_port;
        hdr.packet_in.pad = 0;
        hdr.packet_in.released = 0;
        hdr.packet_in.epoch = 0;
        meta.egress_port = CPU_PORT;
        meta.done = 1;
    }

    @id(ID_TABLE_PUNT) @name("punt")
    table punt {
        key = {
            hdr.ipv4.dst_addr: exact @name("dst_addr");
            meta.protocol:     exact @name("protocol");
            meta.dst_port:     exact @name("dst_port");
        }
        actions = { to_controller; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_PUNT;
    }

    @id(ID_ACTION_HEARTBEAT_OF) @name("heartbeat_of")
    action heartbeat_of(@id(1) pair_id_t pair, @id(2) replica_id_t replica) {
        meta.pair = pair;
        meta.replica = replica;
    }

    @id(ID_TABLE_HEARTBEAT) @name("heartbeat")
    table heartbeat {
        key = {
            meta.ingress_port:     exact @name("ingress_port");
            hdr.ethernet.src_addr: exact @name("src_mac");
        }
        actions = { heartbeat_of; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_SERVERS;
    }

    apply {
        if (hdr.packet_out.isValid()) {
            meta.egress_port = hdr.packet_out.egress_port;
            meta.done = 1;
            hdr.packet_out.setInvalid();
        } else if (hdr.ipv4.isValid() && meta.is_fragment == 0) {
            punt.apply();
            if (hdr.packet_in.isValid() && hdr.heartbeat.isValid()) {
                heartbeat.apply();
            }
        }
    }
}
