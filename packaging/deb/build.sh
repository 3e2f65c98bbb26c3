#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds a Debian package of programs that are built already.
#
#   build.sh BIN OUT VERSION    writes OUT/understudy_VERSION_ARCH.deb from the programs in BIN
#
# The same input gives the same package, byte for byte, if SOURCE_DATE_EPOCH is set.
# DEB_COMPRESSION is xz, or what else dpkg-deb has: none is quick.
set -euo pipefail
if [ $# != 3 ]; then sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
bin=$(realpath "$1"); out=$(realpath -m "$2"); version=$3
top=$(realpath "$(dirname "$0")/../..")
command -v dpkg-deb >/dev/null || { echo "build.sh: dpkg-deb is missing; install dpkg" >&2; exit 1; }
arch=$(dpkg --print-architecture)
# A version begins with a digit (Debian Policy, 5.6.12): a commit alone does not.
version=${version#v}
case $version in [0-9]*.*) ;; *) version=0~git.$version ;; esac
version=${version//-/+}

umask 022
root=$(mktemp -d); trap 'rm -rf "$root"' EXIT
chmod 755 "$root" # mktemp's is 0700
put() { install -D -m "$1" "$2" "$root$3"; }

for p in understudy understudy-controller understudy-agent understudy-switch; do put 755 "$bin/$p" /usr/bin/$p; done
for u in controller agent switch; do put 644 "$top/packaging/systemd/understudy-$u.service" /usr/lib/systemd/system/understudy-$u.service; done
put 644 "$top/packaging/systemd/understudy.sysusers" /usr/lib/sysusers.d/understudy.conf
mkdir -p "$root/usr/share/bash-completion/completions" "$root/usr/share/zsh/vendor-completions" "$root/usr/share/fish/vendor_completions.d"
"$bin/understudy" completion bash >"$root/usr/share/bash-completion/completions/understudy"
"$bin/understudy" completion zsh >"$root/usr/share/zsh/vendor-completions/_understudy"
"$bin/understudy" completion fish >"$root/usr/share/fish/vendor_completions.d/understudy.fish"
doc=/usr/share/doc/understudy
put 644 "$top/README.md" $doc/README.md
put 644 "$top/ARCHITECTURE.md" $doc/ARCHITECTURE.md
for f in "$top"/docs/*.md; do put 644 "$f" "$doc/docs/$(basename "$f")"; done
mkdir -p "$root$doc/examples"
"$bin/understudy-controller" example >"$root$doc/examples/controller.yaml"
put 644 "$top/packaging/deb/agent.yaml" $doc/examples/agent.yaml
put 644 "$top/packaging/deb/switch.env" $doc/examples/switch.env
put 644 "$top/packaging/prometheus/understudy.rules.yaml" /usr/share/understudy/prometheus/understudy.rules.yaml
put 644 "$top/packaging/grafana/understudy.json" /usr/share/understudy/grafana/understudy.json
mkdir -p "$root/etc/understudy"
cat >"$root$doc/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Understudy
Source: https://github.com/understudy-net/understudy

Files: *
Copyright: The Understudy authors
License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
END

mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<END
Package: understudy
Version: $version
Architecture: $arch
Maintainer: The Understudy authors <understudy@understudy.invalid>
Section: net
Priority: optional
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: systemd (>= 250) | systemd-standalone-sysusers
Recommends: iproute2
Homepage: https://github.com/understudy-net/understudy
Description: web services that outlive their server, in the middle of a reply
 A programmable switch copies every client packet to two servers that hold the
 same live TCP connections; only one of them is heard. When it dies, a controller
 changes one entry in the switch, and the other goes on with the byte after the
 last. This package has the controller, the servers' agent, the switch in
 software, and the operator's command. No service is enabled: each host is one
 of them.
END
install -m 755 "$top/packaging/deb/postinst" "$top/packaging/deb/prerm" "$top/packaging/deb/postrm" "$root/DEBIAN/"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +; fi
mkdir -p "$out"
dpkg-deb --root-owner-group -Z"${DEB_COMPRESSION:-xz}" --build "$root" "$out/understudy_${version}_$arch.deb"
