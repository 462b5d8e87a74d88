#!/bin/sh
# Put a Chromium where the browser tests find it: Debian's package, where we are root on a Debian-like machine.
set -u
for name in "${KIMI_NB_CHROMIUM:-}" chromium chromium-browser google-chrome; do
    if [ -n "$name" ] && command -v "$name" >/dev/null 2>&1; then exit 0; fi
done
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Debian's chromium package for the browser tests ..."
    if (apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium) >/dev/null 2>&1; then
        exit 0
    fi
    echo "apt-get could not install chromium." >&2
fi
echo "****************************************************************************" >&2
echo "* NO CHROMIUM: the browser tests will not run here. Install it (on Debian:  *" >&2
echo "* sudo apt install chromium) or name one in KIMI_NB_CHROMIUM.               *" >&2
echo "****************************************************************************" >&2
exit 0
