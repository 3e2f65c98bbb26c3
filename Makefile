# SPDX-License-Identifier: Apache-2.0
#
#   sudo make demo    build, and run the main job: live connections outlive their server
#   sudo make test    every test; installs from Debian what some of them need
#   make build        the four programs, into bin/
#   make deb          a Debian package of them, into dist/
#   make generate     protobuf, eBPF and P4 names (needs protoc, clang, p4c; see below)

# sudo's PATH often lacks Go.
GO      ?= $(shell command -v go 2>/dev/null || echo /usr/local/go/bin/go)
P4C     ?= p4c-bm2-ss
VERSION ?= $(shell git -c safe.directory='*' describe --tags --always --dirty 2>/dev/null)
LDFLAGS := -X github.com/understudy-net/understudy/internal/version.set=$(VERSION)
PROGRAMS := understudy understudy-controller understudy-agent understudy-switch

.PHONY: build deb demo mininet test check fuzz bench bench-switch packages generate p4 api ebpf clean

# Without cgo a program runs on any host, and has less memory to give back when it is
# killed: its connections end sooner.
build:
	CGO_ENABLED=0 $(GO) build -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ $(addprefix ./cmd/,$(PROGRAMS))

# A Debian package in dist/, with hardened systemd units.
deb: build
	SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git -c safe.directory='*' log -1 --format=%ct)} \
	    packaging/deb/build.sh bin dist $(or $(VERSION),0.0)

demo: build
	bin/understudy lab demo

# The default topology in Mininet (Debian: mininet), with its prompt.
mininet: build
	/usr/bin/python3 topologies/mininet/run.py

# Packages are tested one after the other: several of them measure, or fill both
# cores of a small machine with a lab of their own. What they run is built by some of
# them, which the cache of results does not know: hence -count 1.
test: packages build
	@$(GO) vet -buildvcs=false ./...
	@set -o pipefail; $(GO) test -buildvcs=false -count 1 -json -p 1 -timeout 45m ./... | \
	    $(GO) run -buildvcs=false ./internal/testreport $(if $(filter 0,$(shell id -u)),-must agent/bpf$(comma)topologies/lab$(comma)p4/softswitch)

comma := ,
SHELL := /bin/bash

# What the tests with other people's programs need. Without it they say that they
# were skipped, and why.
DEBIAN := nginx-light curl wrk frr bird2 exabgp mininet
packages:
	@missing=; for p in $(DEBIAN); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "installing$$missing"; \
	        (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing) >/tmp/understudy-apt.log 2>&1 \
	            || echo "could not install$$missing (see /tmp/understudy-apt.log): the tests that need them will be skipped"; \
	    else echo "not installed, tests that need them will be skipped:$$missing"; fi; fi

# The same without root and without the lab.
check:
	$(GO) vet ./...
	$(GO) test ./...

# A minute each; FUZZTIME=1h for longer.
FUZZTIME ?= 1m
fuzz:
	@for pkg in $$($(GO) list ./...); do \
	    for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	        echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1x $$pkg || exit 1; \
	    done; \
	done

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./p4/... ./agent/...

# The embedded switch beside simple_switch_grpc, where that is on the PATH: packets per
# second without loss, and latency. As root.
JSON ?= bench-switch.json
bench-switch:
	UNDERSTUDY_BENCH_SWITCH=$(abspath $(JSON)) $(GO) test -buildvcs=false -count 1 -run '^TestBenchSwitch$$' -v ./p4/softswitch
	@cat $(JSON)

generate: p4 api ebpf

# The data plane, with p4c (https://github.com/p4lang/p4c) and its bmv2 back end.
p4:
	cd p4/src && $(P4C) --std p4-16 -o ../build/understudy.json \
	    --p4runtime-files ../build/understudy.p4info.txtpb understudy_v1model.p4
	cd p4 && $(GO) generate .

# protoc 3.21 or later, protoc-gen-go, protoc-gen-go-grpc.
api:
	for f in api/*/v1/*.proto; do \
	    protoc -I api --go_out=. --go_opt=module=github.com/understudy-net/understudy \
	        --go-grpc_out=. --go-grpc_opt=module=github.com/understudy-net/understudy $$f || exit 1; done

# clang, llvm-strip and libbpf's headers (Debian: clang llvm libbpf-dev).
ebpf:
	$(GO) generate ./agent/bpf

clean:
	rm -rf bin dist
