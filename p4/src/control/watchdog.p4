// SPDX-License-Identifier: Apache-2.0
// The switch itself releases the standby of a pair whose active server has fallen
// silent, with no controller in between, or alive at all. Only where `active` arms it,
// in that entry's epoch.
//
//   - Silence is noticed by the heartbeats of the standby: so it is alive, and neither
//     the switch nor the network before it is deaf.
//   - A server counts as heard, or as standby, only if it says that it has that part
//     in this epoch and can serve: a server that has restarted, and one that has not
//     heard of the epoch yet, release nobody. A standby must be in step, too.
//   - What was released stays so (the latch) whoever speaks again, until the
//     controller writes the next epoch.
//
// The controller reads in each heartbeat that is punted who was released. The server
// itself is told by one in answer to its own: it says active.

control Watchdog(inout headers_t hdr, inout metadata_t meta) {
    Heard() heard;
    Latch() latch;

    // The heartbeat goes back where it came from, and names the part that its sender
    // has now. The instance in it shows that it is the answer to one of its own.
    action answer() {
        mac_t mac = hdr.ethernet.src_addr;
        ipv4_addr_t addr = hdr.ipv4.src_addr;
        bit<16> port = hdr.udp.src_port;
        hdr.ethernet.src_addr = hdr.ethernet.dst_addr;
        hdr.ethernet.dst_addr = mac;
        hdr.ipv4.src_addr = hdr.ipv4.dst_addr;
        hdr.ipv4.dst_addr = addr;
        hdr.ipv4.ttl = 64;
        hdr.udp.src_port = hdr.udp.dst_port;
        hdr.udp.dst_port = port;
        hdr.udp.checksum = 0;           // none (RFC 768)
        hdr.heartbeat.role = HEARTBEAT_ROLE_ACTIVE;
        hdr.packet_in.setInvalid();
        meta.egress_port = meta.ingress_port;
    }

    apply {
        bit<1> release = 0;
        bool standby_beats = false;
        if (hdr.packet_in.isValid()         // a heartbeat, by its destination too
            && hdr.heartbeat.epoch == meta.epoch && hdr.heartbeat.application_up == 1) {
            bool active_beats = meta.replica == meta.active && hdr.heartbeat.role == HEARTBEAT_ROLE_ACTIVE;
            standby_beats = meta.replica == meta.standby && hdr.heartbeat.role == HEARTBEAT_ROLE_BACKUP
                && hdr.heartbeat.in_step == 1;
            if (active_beats || standby_beats) {
                bit<1> now_heard = 0;
                bit<1> known;
                ticks_t silence;
                if (active_beats) {
                    now_heard = 1;
                }
                heard.apply(now_heard, meta.pair, meta.epoch, meta.now, known, silence);
                ticks_t over = silence |-| meta.limit;
                if (known == 1 && over != 0) {
                    release = 1;
                }
            }
        }

        replica_id_t released;
        bit<1> first;
        latch.apply(release, meta.pair, meta.epoch, meta.standby, released, first);
        if (released != 0) {
            meta.active = released;
            if (hdr.packet_in.isValid()) {
                hdr.packet_in.released = released;
                hdr.packet_in.epoch = meta.epoch;
                // Until it knows, every other one of its heartbeats is answered; the
                // rest are the controller's.
                if (standby_beats && (first == 1 || hdr.heartbeat.sequence[0:0] == 1)) {
                    answer();
                }
            }
        }
    }
}
