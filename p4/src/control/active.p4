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

    @id(ID_TABLE_ACTIVE) @name("active")
    table active {
        key = { meta.pair: exact @name("pair"); }
        actions = { set_active; @defaultonly NoAction; }
        const default_action = NoAction();
        size = SIZE_PAIRS;
    }

    apply {
        if (!active.apply().hit) {
            drop(meta, DROP_NO_ACTIVE);
        }
    }
}
