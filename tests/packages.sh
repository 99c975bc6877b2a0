#!/usr/bin/env bash
# Installs Debian's packages that tests need beside those of setup.sh: a Docker engine, a PostgreSQL server and a browser,
# which the tests start and end themselves, Icarus Verilog, and what lays wires between pretended machines. `make test` calls it; it does nothing where all of them are there.
set -euo pipefail

packages=(docker.io containerd iptables iproute2 debootstrap postgresql chromium-headless-shell iverilog)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

how="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
    sudo -n true 2>/dev/null || {
        printf 'The tests need Debian packages that are not installed: %s\n  As root, run: %s\n' "${missing[*]}" "$how" >&2
        exit 1
    }
    as_root=(sudo -n)
fi
printf 'Debian packages for the tests: %s\n' "${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# No service may start by itself: the tests start their own.
policy=/usr/sbin/policy-rc.d
[ -e "$policy" ] || {
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
    trap 'rm -f "$log"; "${as_root[@]}" rm -f "$policy"' EXIT
}
{
    "${as_root[@]}" apt-get update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
} >"$log" 2>&1 </dev/null || {
    tail -n 15 "$log" >&2
    printf 'They could not be installed. As root, run: %s\n' "$how" >&2
    exit 1
}
