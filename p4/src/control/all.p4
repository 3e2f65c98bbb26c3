// SPDX-License-Identifier: Apache-2.0
// The controls, in the order in which one needs another.

#include "packet_io.p4"
#include "neighbours.p4"
#include "routable.p4"
#include "replicas.p4"
#include "active.p4"
#include "watchdog.p4"
#include "suppression.p4"
#include "source_filter.p4"
#include "services.p4"
#include "routing.p4"
#include "decisions.p4"
#include "replica_rewrite.p4"
