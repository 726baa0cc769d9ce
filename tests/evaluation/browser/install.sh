#!/bin/sh
# Debian's Chromium, for the tests in this folder. They are skipped where it is not there, so that
# this changes nothing and says why where it cannot install: no apt-get, not root, no network.
for name in chromium chromium-browser google-chrome; do
    command -v "$name" >/dev/null && exit 0
done
if ! command -v apt-get >/dev/null; then
    echo 'no Chromium: this is not Debian; the browser tests will be skipped' >&2
elif [ "$(id -u)" -ne 0 ]; then
    echo 'no Chromium: only root may install it; the browser tests will be skipped' >&2
elif ! { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
    chromium fonts-dejavu-core; } >/dev/null 2>&1; then
    echo 'no Chromium: apt-get could not install it; the browser tests will be skipped' >&2
fi
exit 0
