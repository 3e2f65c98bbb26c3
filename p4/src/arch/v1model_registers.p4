// SPDX-License-Identifier: Apache-2.0
// What the watchdog remembers of each pair, as v1model has it. Whoever reads and
// writes does so in one step, as hardware would.

// When the active server was last heard, and in which epoch.
control Heard(in bit<1> now_heard, in pair_id_t pair, in epoch_t epoch, in ticks_t now,
              out bit<1> known, out ticks_t silence) {
    @id(ID_REGISTER_HEARD) @name("heard")
    register<bit<64>>(SIZE_PAIRS + 1) heard;    // epoch, ticks

    apply {
        bit<64> last;
        known = 0;
        silence = 0;
        if (now_heard == 1) {
            heard.write((bit<32>)pair, epoch ++ now);
        } else {
            heard.read(last, (bit<32>)pair);
            if (last[63:32] == epoch) {
                known = 1;
                silence = now - last[31:0];
            }
        }
    }
}

// Whom the watchdog has released in an epoch. It stays so until the epoch is over.
control Latch(in bit<1> release, in pair_id_t pair, in epoch_t epoch, in replica_id_t standby,
              out replica_id_t released, out bit<1> first) {
    @id(ID_REGISTER_LATCH) @name("latch")
    register<bit<64>>(SIZE_PAIRS + 1) latch;    // epoch, replica

    apply {
        bit<64> last;
        released = 0;
        first = 0;
        @atomic {
            latch.read(last, (bit<32>)pair);
            if (last[63:32] == epoch) {
                released = last[7:0];
            }
            if (release == 1 && released == 0) {
                latch.write((bit<32>)pair, epoch ++ (bit<32>)standby);
                released = standby;
                first = 1;
            }
        }
    }
}
