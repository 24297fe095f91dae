#!/bin/sh
# Install Debian's PostgreSQL and OpenSSH server for the tests of promotion and of devices, where
# they are missing; needs root. The tests start them on loopback and stop them; Debian's own
# services are not left running.
set -eu
missing=""
set -- /usr/lib/postgresql/*/bin/initdb
[ -x "$1" ] || missing="$missing postgresql"
[ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "not installed:$missing (needs apt-get and root)" >&2
    exit 77
fi
# Installing must not start a service: 101 is "not allowed" to whoever asks.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
fi
apt-get update -q >/dev/null
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing >/dev/null
