#!/bin/sh
# Install Debian's Chromium for the browser tests, where it is missing; needs root.
set -eu
if command -v chromium >/dev/null; then
    exit 0
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends chromium
