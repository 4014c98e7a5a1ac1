#!/usr/bin/env bash
# The client in ~/fedloom, on a 64-bit ARM Debian (12 or newer): a phone's userland, or a board.
#
# Usage, as root: bash examples/phone/debian.sh, in an unpacked checkout.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/../.." && pwd)
if [ "$(uname -m)" != aarch64 ]; then
  echo "$(uname -m): PyTorch's wheels need a 64-bit ARM system (aarch64)" >&2
  exit 2
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-venv
python3 -m venv ~/fedloom
~/fedloom/bin/pip install --upgrade -c "$checkout/constraints-arm64.txt" "$checkout"
~/fedloom/bin/fedloom client --check
