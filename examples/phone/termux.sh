#!/usr/bin/env bash
# A client on an Android phone, in Termux: a Debian userland, and fedloom in it. About 3 GB.
#
# Usage: bash examples/phone/termux.sh, in an unpacked checkout. The same command goes on after an
# interruption, and upgrades.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/../.." && pwd)
pkg install --yes proot-distro termux-api
proot-distro login debian -- true 2>/dev/null || proot-distro install debian
proot-distro login debian --bind "$checkout:/opt/checkout" -- \
  bash /opt/checkout/examples/phone/debian.sh
echo 'installed; next: termux-wake-lock, proot-distro login debian, ~/fedloom/bin/fedloom client'
