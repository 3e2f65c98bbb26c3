// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	switchfaultv1 "github.com/understudy-net/understudy/api/switchfault/v1"
	"github.com/understudy-net/understudy/topologies"
)

// switchFaults connects to the fault injection of the topology's switch.
func (l *Lab) switchFaults(t *topologies.Topology) (switchfaultv1.FaultsClient, *grpc.ClientConn, error) {
	sw := t.OfKind(topologies.Switch)[0]
	if target := sw.Switch.Target; !target.Faults() {
		return nil, nil, fmt.Errorf("%s cannot drop copies on purpose: it has no fault injection; the %s switch has", target, topologies.Embedded)
	}
	conn, err := grpc.NewClient("passthrough:///"+sw.Switch.GRPC,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return l.Dial(ctx, sw.Name, "tcp", address)
		}))
	if err != nil {
		return nil, nil, err
	}
	return switchfaultv1.NewFaultsClient(conn), conn, nil
}

// setDrop asks the switch; it does not remember.
func (l *Lab) setDrop(ctx context.Context, t *topologies.Topology, server string, oneIn uint32) error {
	client, conn, err := l.switchFaults(t)
	if err != nil {
		return err
	}
	defer conn.Close()
	return setDrop(ctx, client, t, server, oneIn)
}

func setDrop(ctx context.Context, client switchfaultv1.FaultsClient, t *topologies.Topology, server string, oneIn uint32) error {
	_, err := client.SetDrop(ctx, &switchfaultv1.SetDropRequest{Port: t.LinkOf(server).Port, OneIn: oneIn, Seed: 1})
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("this switch cannot drop copies: it has no fault injection")
	}
	if err != nil {
		return fmt.Errorf("asking the switch to drop copies toward %s: %w", server, err)
	}
	return nil
}
