// SPDX-License-Identifier: Apache-2.0
// Who is heard? `active` is the entry that a failover flips: one per pair, however
// many services and connections ride on it.

control Active(inout metadata_t meta) {
    // The epoch takes no part in forwarding: it is there to be read back, by a
    // controller that has forgotten.
    @id(ID_ACTION_SET_ACTIVE) @name("set_active")
    action set_active(@id(1) replica_id_t replica, @id(2) epoch_t epoch) {
        meta.active = replica;
        meta.epoch = epoch;
    }

    // The same with the watchdog armed: if the active server is silent for longer than
    // the limit, in ticks, the standby is released. The next epoch's entry disarms it.
    @id(ID_ACTION_SET_ACTIVE_WATCHED) @name("set_active_watched")
    action set_active_watched(@id(1) replica_id_t replica, @id(2) epoch_t epoch,
                              @id(3) replica_id_t standby, @id(4) ticks_t limit) {
        meta.active = replica;
        meta.epoch = epoch;
        meta.standby = standby;
        meta.limit = limit;
    }

    @id(ID_TABLE_ACTIVE) @name("active")
    table active {
        key = { meta.pair: exact @name("pair"); }
        actions = { set_active; set_active_watched; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_PAIRS;
    }

    apply {
        if (!active.apply().hit && UNDECIDED) {
            drop(meta, DROP_NO_ACTIVE);
        }
    }
}
