#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Runs an Understudy topology in Mininet, with Mininet's prompt.

The topology file is the lab's. What it means (addresses, configuration files,
commands) is asked of `understudy lab plan`; this program only makes the network
of it by Mininet's Python API, and starts the programs on its nodes.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

from mininet.cli import CLI
from mininet.link import Link
from mininet.log import error, info, output, setLogLevel
from mininet.net import Mininet
from mininet.node import Host, Switch

BIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bin")
RUN_DIR = "/run/understudy/mininet"

# Patience, in seconds, for a program to accept connections, for pairs to become
# duplex, and for a program to end when asked.
STARTING, DUPLEX, ENDING = 15, 30, 5

CLONE_NEWNET = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """Something that the user is told in one line."""


class UnderstudyHost(Host):
    """A client or a server: sysctls first, then addresses, as in the lab."""

    def configure(self, plan):
        set_sysctls(self, plan)
        run(self, "ip link set lo up")
        for vip in plan.get("vips", []):
            run(self, "ip addr replace %s dev lo" % vip)
        run(self, "ip addr flush dev %s" % plan["data"])
        run(self, "ip addr add %s dev %s" % (plan["address"], plan["data"]))
        run(self, "ip link set %s up" % plan["data"])
        run(self, "ip route replace default via %s" % plan["gateway"])
        if "management_address" in plan:
            run(self, "ip addr flush dev mgmt0")
            run(self, "ip addr add %s dev mgmt0" % plan["management_address"])
            run(self, "ip link set mgmt0 up")


class UnderstudySwitch(Switch):
    """The embedded switch, in a namespace of its own; the controller and the bridge
    of the management network are on this node, too."""

    def __init__(self, name, **params):
        params["inNamespace"] = True
        Switch.__init__(self, name, **params)

    def start(self, controllers):
        pass  # Runner starts the programs of all nodes, in the plan's order

    def connected(self):
        return True

    def attach(self, link):
        """Readies the port of a link for the switch's program."""
        run(self, "ip link set %s up" % link["wire"])


class BMv2Switch(UnderstudySwitch):
    """bmv2's simple_switch_grpc, from the PATH. While one of its interfaces is down it
    receives on none: its ports are interfaces above the wires, which stay up."""

    def attach(self, link):
        UnderstudySwitch.attach(self, link)
        run(self, "ip link add link %s name %s type macvlan mode passthru" % (link["wire"], link["interface"]))
        run(self, "ip link set %s up" % link["interface"])


SWITCHES = {"embedded": UnderstudySwitch, "bmv2": BMv2Switch}


class Plan(dict):
    def node(self, name):
        return next(n for n in self["nodes"] if n["name"] == name)

    def process(self, node, role):
        for p in self["processes"]:
            if p["node"] == node and p["role"] == role:
                return p
        raise Failed("%s runs no %s" % (node, role))


def run(node, command):
    """Runs a command on a node, which must succeed."""
    out, err, status = node.pexec(command)
    if status:
        raise Failed("%s: %s: %s" % (node.name, command, (err or out).strip()))


def set_sysctls(node, plan):
    for name, value in sorted((plan.get("sysctls") or {}).items()):
        path = "/proc/sys/" + name.replace(".", "/")
        _, _, missing = node.pexec(["test", "-e", path])
        if missing:
            info("%s: this kernel has no %s\n" % (node.name, name))
            continue
        run(node, ["sh", "-c", 'printf %s "$1" > "$0"', path, value])


def dial(node, address, timeout):
    """True if something on the node accepts a connection."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    theirs = os.open("/proc/%d/ns/net" % node.pid, os.O_RDONLY)
    try:
        if libc.setns(theirs, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        host, port = address.rsplit(":", 1)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout).close()
            return True
        except OSError:
            return False
    finally:
        libc.setns(own, CLONE_NEWNET)
        os.close(own)
        os.close(theirs)


class Runner:
    """A topology that runs."""

    def __init__(self, plan, binaries, switch):
        self.plan, self.binaries, self.switch = plan, binaries, switch
        self.programs = {}  # by name of the process
        self.off = set()  # servers without power
        self.net = None

    def start(self):
        plan = self.plan
        # Mininet's nodes have mount namespaces of their own: what is mounted later
        # they do not see.
        self.write()
        self.net = Mininet(switch=self.switch, host=UnderstudyHost, link=Link, build=False, controller=None)
        for n in plan["nodes"]:
            if n["kind"] == "switch":
                self.net.addSwitch(n["name"], dpid="%x" % n["device_id"])
                set_sysctls(self.net[n["name"]], n)
            else:
                self.net.addHost(n["name"], ip=None)
        for link in plan["links"]:
            n = plan.node(link["node"])
            self.net.addLink(link["node"], link["switch"], port2=link["port"],
                             intfName1=n["data"], intfName2=link["wire"],
                             addr1=n["mac"], addr2=link["mac"])
        switch = next(n for n in plan["nodes"] if n["kind"] == "switch")
        node = self.net[switch["name"]]
        run(node, "ip link set lo up")
        run(node, "ip link add %s address %s type bridge" % (plan["bridge"], switch["management_mac"]))
        run(node, "ip addr add %s dev %s" % (switch["management_address"], plan["bridge"]))
        run(node, "ip link set %s up" % plan["bridge"])
        for n in plan["nodes"]:
            if n["kind"] != "server":
                continue
            self.net.addLink(n["name"], switch["name"], port1=1, port2=1000 + len(self.net.links),
                             intfName1=n["management"], intfName2=n["management_port"], addr1=n["management_mac"])
            run(node, "ip link set %s master %s up" % (n["management_port"], plan["bridge"]))
        for n in plan["nodes"]:
            if n["kind"] != "switch":
                self.net[n["name"]].configure(n)
        for link in plan["links"]:
            if not switch.get("offloads"):
                for on, name in ((node, link["wire"]), (self.net[link["node"]], plan.node(link["node"])["data"])):
                    run(on, "ethtool -K %s tx off rx off sg off tso off gso off gro off" % name)
            node.attach(link)
        self.net.build()
        self.net.start()
        for p in plan["processes"]:
            self.launch(p)
        self.wait_duplex()

    def write(self):
        for d in self.plan["dirs"] + [self.plan["bpf"]]:
            os.makedirs(d, exist_ok=True)
        subprocess.run(["mount", "-t", "bpf", "-o", "mode=0700", "bpf", self.plan["bpf"]], check=True)
        for d in self.plan["pins"]:
            os.makedirs(d)
        for f in self.plan["files"]:
            with open(f["name"], "w") as out:
                out.write(f["content"])

    def log(self, name):
        return os.path.join(RUN_DIR, "log", name + ".log")

    def launch(self, process):
        """Starts one program and waits until it accepts connections, where it does."""
        node, name = self.net[process["node"]], process["name"]
        args = process["args"]
        own = os.path.join(self.binaries, args[0])
        if "/" not in args[0] and os.path.exists(own):
            args = [own] + args[1:]
        if not shutil.which(args[0]):
            raise Failed("%s: there is no %s; run `make build`, or install it" % (name, args[0]))
        # mnexec gives it a session of its own. What carries packets comes before what
        # makes them, as in the lab: all share one host.
        args = ["nice", "-n", str(process["nice"])] + args
        with open(self.log(name), "a") as log:
            program = node.popen(args, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.programs[name] = program
        listen = {"switch": self.plan.node(node.name).get("listen"),
                  "app": self.plan.node(node.name).get("listen")}.get(process["role"])
        socket_file = self.plan["admin"].split(":", 1)[1] if process["role"] == "controller" else None
        deadline = time.monotonic() + STARTING
        while listen and not dial(node, listen, 1) or socket_file and not os.path.exists(socket_file):
            if program.poll() is not None:
                raise Failed("%s has ended; its log says:\n%s" % (name, self.tail(name)))
            if time.monotonic() > deadline:
                raise Failed("%s does not accept connections; its log says:\n%s" % (name, self.tail(name)))
            time.sleep(0.02)
        info("%s runs\n" % name)

    def tail(self, name):
        with open(self.log(name)) as log:
            return "".join(log.readlines()[-10:])

    def understudy(self, *args):
        """Runs the operator's CLI and returns what it prints."""
        result = subprocess.run([os.path.join(self.binaries, "understudy"), *args, "--address", self.plan["admin"]],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, text=True)
        if result.returncode:
            raise Failed(result.stderr.strip())
        return result.stdout

    def pairs(self):
        return json.loads(self.understudy("pairs", "-o", "json")).get("pairs", [])

    def wait_duplex(self):
        self.wait("all pairs are duplex", lambda: all(p["state"].endswith("DUPLEX") for p in self.pairs()))
        info("all pairs are duplex\n")

    def wait(self, what, condition):
        deadline = time.monotonic() + DUPLEX
        while not condition():
            for name, program in self.programs.items():
                if program.poll() is not None and program.returncode >= 0:
                    raise Failed("%s has ended; its log says:\n%s" % (name, self.tail(name)))
            if time.monotonic() > deadline:
                raise Failed("%d s have passed, and it is not so that %s" % (DUPLEX, what))
            time.sleep(0.05)

    def kill(self, name):
        """SIGKILL to a program and all that it started."""
        program = self.programs.get(name)
        if program is None or program.poll() is not None:
            raise Failed("%s does not run" % name)
        os.killpg(program.pid, signal.SIGKILL)
        program.wait(ENDING)

    def link(self, server, state):
        link = next(l for l in self.plan["links"] if l["node"] == server)
        run(self.net[link["switch"]], "ip link set %s %s" % (link["wire"], state))

    def management(self, server, state):
        link = next(l for l in self.plan["links"] if l["node"] == server)
        run(self.net[link["switch"]], "ip link set %s %s" % (self.plan.node(server)["management_port"], state))

    def power_off(self, server):
        """Takes both links away, then kills every program. The management link goes
        first: no message of a dying program gets anywhere, and no client notices."""
        self.management(server, "down")
        self.link(server, "down")
        for role in ("agent", "app"):
            self.kill(self.plan.process(server, role)["name"])
        self.off.add(server)

    def forget(self, server):
        """What a machine forgets when its power fails: connections, BPF programs."""
        run(self.net[server], ["ss", "--kill", "--tcp", "--all"])
        pins = next(d for d in self.plan["pins"] if os.path.basename(d) == server)
        for name in os.listdir(pins):
            path = os.path.join(pins, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        self.off.remove(server)

    def stop(self):
        for program in reversed(list(self.programs.values())):
            if program.poll() is None:
                program.terminate()
        deadline = time.monotonic() + ENDING
        for program in self.programs.values():
            try:
                program.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(program.pid, signal.SIGKILL)
                program.wait()
        if self.net:
            self.net.stop()
        while subprocess.run(["umount", self.plan["bpf"]], stderr=subprocess.DEVNULL).returncode == 0:
            pass
        shutil.rmtree(RUN_DIR, ignore_errors=True)


class Prompt(CLI):
    """Mininet's prompt, with Understudy's own words."""

    prompt = "understudy> "

    def __init__(self, runner, **kwargs):
        self.runner = runner
        CLI.__init__(self, runner.net, **kwargs)

    def guarded(self, f, *args):
        try:
            f(*args)
        except (Failed, KeyError, StopIteration, subprocess.SubprocessError) as e:
            error("%s\n" % e)

    def do_pairs(self, _):
        "Who is active, and what is protected."
        self.guarded(lambda: output(self.runner.understudy("pairs")))

    def do_failovers(self, _):
        "What happened, step by step."
        self.guarded(lambda: output(self.runner.understudy("failovers")))

    def do_switch_over(self, line):
        "switch_over PAIR: move the active role on purpose."
        self.guarded(lambda: output(self.runner.understudy("switch-over", line.strip())))

    def do_fault(self, line):
        "fault kill-agent|kill-app|cut-link|power-off SERVER"
        self.guarded(fault, self.runner, *line.split())

    def do_heal(self, line):
        "heal SERVER: undo its faults, and wait for its pair to be duplex."
        self.guarded(heal, self.runner, line.strip())


def fault(runner, kind="", server=""):
    if server not in [n["name"] for n in runner.plan["nodes"] if n["kind"] == "server"]:
        raise Failed("fault KIND SERVER: there is no server %r" % server)
    if kind == "cut-link":
        runner.link(server, "down")
    elif kind == "power-off":
        runner.power_off(server)
    elif kind in ("kill-agent", "kill-app"):
        runner.kill(runner.plan.process(server, kind[len("kill-"):])["name"])
    else:
        raise Failed("fault KIND SERVER: KIND is kill-agent, kill-app, cut-link or power-off")


def heal(runner, server):
    if server in runner.off:
        runner.forget(server)  # before the links are up: nobody is told
    runner.management(server, "up")
    runner.link(server, "up")
    for role in ("app", "agent"):
        process = runner.plan.process(server, role)
        if runner.programs[process["name"]].poll() is not None:
            runner.launch(process)
    runner.wait_duplex()


def failover(runner, kind):
    """Kills the active server in the middle of checked load and prints a report. The
    load looks at every byte; its exit status is the answer."""
    client = runner.net[runner.plan["client"]]
    for attempt in range(3):
        runner.wait_duplex()
        pair = runner.pairs()[0]
        load = client.popen([os.path.join(runner.binaries, "understudy"), "lab", "load", "--to", runner.plan["service"],
                             "--connections", "20", "--duration", "6s", "-o", "json"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(2)
        if runner.pairs()[0]["epoch"] == pair["epoch"]:
            break
        # On a host too busy for heartbeats: connections that were open then are held by
        # one server, and a fault would show nothing.
        info("the pair changed by itself before the fault\n")
        load.communicate(timeout=60)
    else:
        raise Failed("the pair does not stay as it is, without a fault")
    active = next(s["name"] for s in pair["servers"] if s["role"].endswith("ACTIVE"))
    fault(runner, kind, active)
    out, err = load.communicate(timeout=60)
    now = next(s["name"] for s in runner.pairs()[0]["servers"] if s["role"].endswith("ACTIVE"))
    report = {"fault": kind, "was_active": active, "is_active": now, "load": json.loads(out or b"null")}
    print(json.dumps(report))
    if load.returncode:
        raise Failed("the load was not served as it should be: " + err.decode().strip())
    if now == active:
        raise Failed("%s is still active" % active)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", help="a topology file (default: the lab's)")
    parser.add_argument("--switch", choices=sorted(SWITCHES), help="default: $UNDERSTUDY_SWITCH, then what the topology says")
    parser.add_argument("--bin", default=BIN, help="where Understudy's programs are")
    parser.add_argument("--failover", metavar="FAULT", help="instead of a prompt: one failover under load, by this fault")
    parser.add_argument("--script", help="instead of a prompt: the commands in this file")
    args = parser.parse_args()
    if os.geteuid():
        sys.exit("run.py: Mininet needs root")
    setLogLevel("info")
    command = [os.path.join(args.bin, "understudy"), "lab", "plan", "--run-dir", RUN_DIR]
    if args.topology:
        command += ["--topology", args.topology]
    if args.switch:
        command += ["--switch", args.switch]
    if not os.path.exists(command[0]):
        sys.exit("run.py: there is no %s; run `make build`" % command[0])
    planned = subprocess.run(command, stdout=subprocess.PIPE)
    if planned.returncode:
        sys.exit(planned.returncode)
    if os.path.exists(RUN_DIR):
        sys.exit("run.py: %s is there: another one runs, or was killed; `umount %s/bpf`, and remove it" % (RUN_DIR, RUN_DIR))
    plan = Plan(json.loads(planned.stdout))
    target = next(n["target"] for n in plan["nodes"] if n["kind"] == "switch")
    if target == "bmv2" and not shutil.which("simple_switch_grpc"):
        sys.exit("run.py: simple_switch_grpc is not on the PATH; it is bmv2's, of github.com/p4lang/behavioral-model")
    runner = Runner(plan, args.bin, SWITCHES[target])
    try:
        runner.start()
        if args.failover:
            failover(runner, args.failover)
        elif args.script:
            Prompt(runner, script=args.script)
        else:
            output("try: %s curl http://%s/?size=1000, pairs, fault kill-agent server1, failovers, heal server1\n"
                   % (runner.plan["client"], runner.plan["service"]))
            Prompt(runner)
    except (Failed, subprocess.SubprocessError) as e:
        sys.exit("run.py: %s" % e)
    finally:
        runner.stop()


if __name__ == "__main__":
    main()
