// SPDX-License-Identifier: Apache-2.0

package softswitch

// LogStats logs what the ports and the controller channel have done.
func (s *Switch) LogStats() {
	for _, p := range s.ports {
		if p == nil {
			continue
		}
		c := p.stats.Snapshot()
		s.log.Info("port", "number", p.Number,
			"rx_packets", c.RxPackets, "rx_bytes", c.RxBytes, "rx_errors", c.RxErrors,
			"tx_packets", c.TxPackets, "tx_bytes", c.TxBytes,
			"tx_link_down", c.TxLinkDown, "tx_too_long", c.TxTooLong,
			"tx_queue_full", c.TxQueueFull, "tx_errors", c.TxErrors)
	}
	c := &s.stats
	s.log.Info("controller", "packet_ins", c.packetIns.Load(), "packet_in_drops", c.packetInDrops.Load(),
		"packet_in_errors", c.packetInErrors.Load(), "packet_outs", c.packetOuts.Load(),
		"packet_out_errors", c.packetOutErrors.Load(),
		"dropped_no_pipeline", c.noPipeline.Load(), "dropped_unknown_port", c.unknownPort.Load())
}
