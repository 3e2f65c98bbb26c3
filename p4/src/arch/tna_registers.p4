// SPDX-License-Identifier: Apache-2.0
// What the watchdog remembers of each pair, as TNA has it: each register is reached
// once per packet, by one of its two actions.

struct heard_t {
    epoch_t epoch;
    ticks_t at;
}

// When the active server was last heard, and in which epoch.
control Heard(in bit<1> now_heard, in pair_id_t pair, in epoch_t epoch, in ticks_t now,
              out bit<1> known, out ticks_t silence) {
    @id(ID_REGISTER_HEARD) @name("heard")
    Register<heard_t, pair_id_t>(SIZE_PAIRS + 1) heard;

    RegisterAction<heard_t, pair_id_t, ticks_t>(heard) note = {
        void apply(inout heard_t last) {
            last.epoch = epoch;
            last.at = now;
        }
    };

    // 0 is not known: it is one tick in more than an hour.
    RegisterAction<heard_t, pair_id_t, ticks_t>(heard) read = {
        void apply(inout heard_t last, out ticks_t at) {
            at = 0;
            if (last.epoch == epoch) {
                at = last.at;
            }
        }
    };

    apply {
        known = 0;
        silence = 0;
        if (now_heard == 1) {
            note.execute(pair);
        } else {
            ticks_t at = read.execute(pair);
            silence = now - at;
            if (at != 0) {
                known = 1;
            }
        }
    }
}

struct latch_t {
    epoch_t epoch;
    bit<32> replica;
}

// Whom the watchdog has released in an epoch. It stays so until the epoch is over.
control Latch(in bit<1> release, in pair_id_t pair, in epoch_t epoch, in replica_id_t standby,
              out replica_id_t released, out bit<1> first) {
    @id(ID_REGISTER_LATCH) @name("latch")
    Register<latch_t, pair_id_t>(SIZE_PAIRS + 1) latch;

    // Returns whom it had released before, 0 for nobody. To release the same one twice
    // changes nothing: within an epoch there is one standby.
    RegisterAction<latch_t, pair_id_t, bit<32>>(latch) set = {
        void apply(inout latch_t last, out bit<32> before) {
            before = 0;
            if (last.epoch == epoch) {
                before = last.replica;
            }
            last.epoch = epoch;
            last.replica = (bit<32>)standby;
        }
    };

    RegisterAction<latch_t, pair_id_t, bit<32>>(latch) read = {
        void apply(inout latch_t last, out bit<32> before) {
            before = 0;
            if (last.epoch == epoch) {
                before = last.replica;
            }
        }
    };

    apply {
        bit<32> before;
        first = 0;
        if (release == 1) {
            before = set.execute(pair);
            released = standby;
            if (before == 0) {
                first = 1;
            }
        } else {
            before = read.execute(pair);
            released = (replica_id_t)before;
        }
    }
}
