// SPDX-License-Identifier: Apache-2.0

// Package controller decides who is active. It joins its rooms: one loop owns
// the state machines of all pairs (failover), and tasks around it talk to the
// switch (p4rt), to the agents (health) and to operators (admin). Each event is
// handled by the goroutine that brings it, one at a time; what follows from it is
// handed to the tasks that write and send, and waits for nobody.
//
//	agents --sessions--> health --+                  +--> writer --> p4rt --> switch
//	                              |    +------+      |
//	switch --packets---> health --+--> | loop | -----+--> sessions --> agents
//	                              |    +------+      |
//	       --ports-----> gnmi ----+      ticks       +--> history, events
//	operators ---------> admin ---+                  +--> routes --> bgp --> routers
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-net/understudy/controller/admin"
	"github.com/understudy-net/understudy/controller/bgp"
	"github.com/understudy-net/understudy/controller/config"
	"github.com/understudy-net/understudy/controller/desired"
	"github.com/understudy-net/understudy/controller/failover"
	"github.com/understudy-net/understudy/controller/gnmi"
	"github.com/understudy-net/understudy/controller/health"
	"github.com/understudy-net/understudy/controller/metrics"
	"github.com/understudy-net/understudy/controller/p4rt"
	"github.com/understudy-net/understudy/internal/heartbeat"
	"github.com/understudy-net/understudy/internal/pki"
	"github.com/understudy-net/understudy/internal/version"
)

// Options are what a Controller is made of. Pipeline is required, and either Desired
// or Config.
type Options struct {
	// Config is used without Desired: it never changes then.
	Config *config.Config
	// Desired is where the configuration comes from, and its changes.
	Desired  *desired.Desired
	Pipeline p4rt.Pipeline
	// Level, if not nil, is that of Logger, which the Admin API changes.
	Level *slog.LevelVar
	// Logger may be nil.
	Logger *slog.Logger
	// Rand spreads pauses; nil means a generator of its own.
	Rand *rand.Rand
	// Agents and Admin replace the listeners that the configuration names. The
	// controller closes them.
	Agents, Admin net.Listener
	// Ready, if not nil, is called once: everything is served, and the switch has
	// its pipeline and its entries, or another controller is in charge of it.
	Ready func()
}

// Controller is one controller. It is made by New and runs once.
type Controller struct {
	journal *journal
	loop    *loop
	// sessions are those with all switches; session is the first of them.
	sessions switches
	session  *p4rt.Session
	agents   net.Listener
	admin    net.Listener
	audit    *admin.Audit
	desired  *desired.Desired // nil without one
	metrics  *metrics.Metrics
	// scrapes is where metrics are served; nil for nowhere.
	scrapes      net.Listener
	certificates *pki.Source // nil without TLS
	log          *slog.Logger
	speaker      *bgp.Speaker // nil without BGP
	telemetry    *telemetry
	tasks        []task
}

// task is a part of a controller that runs until its context ends, which is not
// an error. When one fails, all end.
type task interface {
	Run(context.Context) error
	fmt.Stringer
}

// New opens what a controller needs: its state, its listeners. It does not
// connect to the switch yet. Run must be called to release them.
func New(opts Options) (_ *Controller, err error) {
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	cfg := opts.Config
	if opts.Desired != nil {
		cfg = opts.Desired.Config()
	}
	c := &Controller{journal: newJournal(opts.Logger.Handler()), agents: opts.Agents, admin: opts.Admin}
	opts.Logger = slog.New(c.journal)
	c.log, c.desired = opts.Logger, opts.Desired
	c.metrics = metrics.New(version.String(), c.snapshot)
	defer func() {
		if err != nil {
			c.close()
		}
	}()

	secret, err := loadSecret(cfg.StateDir)
	if err != nil {
		return nil, err
	}
	history, err := openHistory(cfg.StateDir, opts.Logger)
	if err != nil {
		return nil, err
	}
	if c.agents == nil {
		if c.agents, err = net.Listen("tcp", cfg.Listen.Agents); err != nil {
			return nil, fmt.Errorf("agents: %w; free the address, or change listen.agents", err)
		}
	}
	if c.admin == nil {
		if c.admin, err = admin.Listen(cfg.Listen.Admin); err != nil {
			return nil, err
		}
	}

	if cfg.Listen.Metrics != "" {
		if c.scrapes, err = net.Listen("tcp", cfg.Listen.Metrics); err != nil {
			return nil, fmt.Errorf("metrics: %w; free the address, or change listen.metrics", err)
		}
	}
	var source *pki.Source
	agentCreds := insecure.NewCredentials()
	if cfg.TLS != nil {
		if source, err = pki.Open(pki.Files(*cfg.TLS), opts.Logger); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		c.certificates, agentCreds = source, pki.ServerCredentials(source)
	}
	adminCreds, err := admin.Credentials(c.admin, source, cfg.Listen.Insecure)
	if err != nil {
		return nil, err
	}
	if cfg.Listen.Insecure {
		opts.Logger.Warn("whoever reaches the listeners is let in: listen.insecure is true", "agents", c.agents.Addr(), "admin", c.admin.Addr())
	}
	if c.audit, err = admin.OpenAudit(cfg.AuditLog, opts.Logger); err != nil {
		return nil, err
	}

	l := newLoop(cfg, opts.Logger, secret, history)
	l.standing = cfg.Switch.Standby
	c.loop = l
	agents := health.NewAgentServer(l, agentCreds, opts.Logger)
	shown := newTelemetry(c)
	c.telemetry = shown
	adminServer := admin.New(admin.Options{Backend: l, Desired: opts.Desired, Credentials: adminCreds, Audit: c.audit,
		Called: c.metrics.Called, Inspector: c, Level: opts.Level, Telemetry: shown.state.NewServer()})

	beats := health.NewHeartbeats(cfg.Heartbeat.Port, places(cfg), l.heartbeat)
	ready := sync.OnceFunc(func() {
		if opts.Ready != nil {
			opts.Ready()
		}
	})
	var running []*p4rt.Session
	for i, sw := range cfg.Switches() {
		session, err := p4rt.New(p4rt.Options{
			Address:  sw.Address,
			DeviceID: sw.DeviceID,
			Pipeline: opts.Pipeline,
			Wanted: func(ctx context.Context, have p4rt.State) (p4rt.State, error) {
				return l.wanted(ctx, i, have)
			},
			PacketIn: func(m p4rt.Metadata, frame []byte) { beats.Packet(health.Origin(m), frame) },
			Changed: func(st p4rt.Status) {
				switch st {
				case p4rt.Standby:
					l.standBy()
				case p4rt.Ready:
					c.metrics.SwitchReady()
					l.takeOver()
					l.switchReady()
				}
				adminServer.SetServing(len(c.sessions.ready()) > 0)
				shown.changed()
				opts.Logger.Info("switch session", "switch", sw.Name, "status", st)
				if st == p4rt.Ready || st == p4rt.Standby {
					ready()
				}
			},
			Wrote: c.metrics.Wrote,
			Drift: func(updates []p4rt.Update) {
				c.metrics.Drifted(len(updates))
				l.drifted(sw.Name, updates)
			},
			StandBy: sw.Standby,
			Logger:  opts.Logger,
			Rand:    split(opts.Rand),
		})
		if err != nil {
			return nil, fmt.Errorf("%w; use the P4 program that this controller was built with", err)
		}
		c.sessions = append(c.sessions, session)
		running = append(running, session)
	}
	c.session = running[0]
	for _, e := range l.tables.Load().standing {
		if err := c.session.Schema().Check(e); err != nil {
			return nil, fmt.Errorf("P4 program: %w; use the one that this controller was built with", err)
		}
	}

	l.room = func(t *tables) error {
		err := c.session.Schema().Room(t.standing, map[string]int{activeTable: len(t.pairs)})
		if err != nil {
			return fmt.Errorf("the switch is too small for this: %w; have fewer services or VIPs, or another switch for some", err)
		}
		return nil
	}
	if err := l.room(l.tables.Load()); err != nil {
		return nil, err
	}

	c.tasks = []task{l, history}
	if d := opts.Desired; d != nil {
		d.Use(l.reconfigure)
		l.keep = d.SetAdmin
		l.restore(d.Admin())
		c.tasks = append(c.tasks, d)
	}
	l.failedOver = func(r *record) { r.measure(c.metrics) }
	l.put = c.sessions.Put
	l.change = c.sessions.Change
	l.resync = c.sessions.Resync
	l.reread = c.sessions.resyncOthers
	l.setPlaces = beats.SetServers
	if cfg.BGP != nil {
		c.speaker = bgp.New(cfg.BGP, opts.Logger)
		r := newRoutes(cfg, c.speaker, opts.Logger)
		l.changed = append(l.changed, func(p *pair, st failover.Status) { r.changed(p.config, st) })
		l.configured = append(l.configured, r.configure)
		c.tasks = append(c.tasks, r, c.speaker)
	}
	for i, sw := range cfg.Switches() {
		var ports *gnmi.Ports
		if sw.GNMI != "" {
			ports = gnmi.NewPorts(gnmi.PortsOptions{
				Switch: sw.Name, Address: sw.GNMI, Logger: opts.Logger,
				Changed: func(p gnmi.Port) { l.portChanged(i, p) },
			})
			c.tasks = append(c.tasks, ports)
		}
		shown.ports = append(shown.ports, ports)
	}
	l.changed = append(l.changed, shown.pairChanged)
	l.configured = append(l.configured, shown.configured)
	c.tasks = append(c.tasks, shown)
	for _, session := range running {
		c.tasks = append(c.tasks, session)
	}
	c.tasks = append(c.tasks,
		service{"agent server on " + c.agents.Addr().String(), agents.Serve, c.agents},
		service{"admin server on " + c.admin.Addr().String(), adminServer.Serve, c.admin},
	)
	if c.scrapes != nil {
		c.tasks = append(c.tasks, service{"metrics on " + c.scrapes.Addr().String(), c.serveMetrics, c.scrapes})
	}
	return c, nil
}

// split returns a generator of its own for one of those that share r, which may be nil.
func split(r *rand.Rand) *rand.Rand {
	if r == nil {
		return nil
	}
	return rand.New(rand.NewPCG(r.Uint64(), r.Uint64()))
}

func (c *Controller) close() {
	for _, l := range []net.Listener{c.agents, c.admin, c.scrapes} {
		if l != nil {
			l.Close()
		}
	}
	c.audit.Close()
}

// AgentAddr is where agents reach it.
func (c *Controller) AgentAddr() net.Addr { return c.agents.Addr() }

// AdminAddr is where operators reach it.
func (c *Controller) AdminAddr() net.Addr { return c.admin.Addr() }

// Alive returns when the loop has had a turn: an error says that it has ended. A
// controller that is stuck does not return.
func (c *Controller) Alive(ctx context.Context) error { return c.loop.call(ctx, func() {}) }

// MetricsAddr is where metrics are served; nil for nowhere.
func (c *Controller) MetricsAddr() net.Addr {
	if c.scrapes == nil {
		return nil
	}
	return c.scrapes.Addr()
}

// Run runs until ctx ends, which is not an error, or a part fails. Everything
// that it has started has ended when it returns. The switch is left as it is.
func (c *Controller) Run(ctx context.Context) error {
	defer c.close()
	go c.journal.run()
	defer c.journal.close()
	group, ctx := errgroup.WithContext(ctx)
	for _, t := range c.tasks {
		group.Go(func() error {
			if err := t.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
				return fmt.Errorf("%v: %w", t, err)
			}
			return nil
		})
	}
	return group.Wait()
}

type service struct {
	name     string
	serve    func(context.Context, net.Listener) error
	listener net.Listener
}

func (s service) Run(ctx context.Context) error { return s.serve(ctx, s.listener) }
func (s service) String() string                { return s.name }

// heartbeat runs in the goroutine that reads the switch's stream.
func (l *loop) heartbeat(s health.Server, h heartbeat.Heartbeat, from health.Origin) {
	p := l.tables.Load().byID[s.Pair]
	if p == nil {
		return // it was removed
	}
	p.beats[s.Replica-1].Add(1)
	l.post(input{pair: p, event: failover.HeartbeatSeen{
		Server:        failover.Replica(s.Replica),
		At:            time.Now(),
		Instance:      h.Instance,
		Role:          failover.Role(h.Role),
		Epoch:         uint64(h.Epoch),
		ApplicationUp: h.ApplicationUp,
		Released:      failover.Replica(from.Released),
		ReleasedEpoch: uint64(from.Epoch),
	}})
}
