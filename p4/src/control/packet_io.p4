// SPDX-License-Identifier: Apache-2.0
// To and from the controller: a packet-out goes to the port that it names; what
// the `punt` table names (heartbeats of agents) goes to the controller, with the
// port on which it came.

control PacketIo(inout headers_t hdr,
                 inout metadata_t meta,
                 inout standard_metadata_t std) {
    @id(ID_ACTION_TO_CONTROLLER)
    action to_controller() {
        hdr.packet_in.setValid();
        hdr.packet_in.ingress_port = std.ingress_port;
        hdr.packet_in.pad = 0;
        std.egress_spec = CPU_PORT;
    }

    @id(ID_TABLE_PUNT) @name("punt")
    table punt {
        key = {
            hdr.ipv4.dst_addr: exact @name("dst_addr");
            hdr.ipv4.protocol: exact @name("protocol");
            meta.dst_port:     exact @name("dst_port");
        }
        actions = { to_controller; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_PUNT;
    }

    apply {
        if (hdr.packet_out.isValid()) {
            std.egress_spec = hdr.packet_out.egress_port;
            hdr.packet_out.setInvalid();
            meta.done = 1;
        } else if (hdr.ipv4.isValid() && punt.apply().hit) {
            meta.done = 1;
        }
    }
}
