#!/usr/bin/env bash
# For the other scripts here: what pip needs on this machine (settings, certificates, folders with
# wheels) is lent to a build, so that nothing of it stays in the image.
set -euo pipefail

# Print what to mount, "source:target" a line. Settings are put together in the folder given.
lend_pip_settings() {
    local folder files=(/etc/pip.conf "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf")
    for folder in /etc/ssl/certs /usr/local/share/ca-certificates; do
        [ ! -d "$folder" ] || echo "$folder:$folder"
    done
    # One section of that name only: pip refuses a second one.
    { cat "${files[@]}" 2>/dev/null || true; } | awk '!(/^\[global\]/ && seen++)' > "$1/pip.conf"
    echo "$1/pip.conf:/etc/pip.conf"
    # Folders that it names; an index lies beside its files.
    { grep -v '^#' "$1/pip.conf" || true; } | { grep -oE '(file://|[= ])/[A-Za-z0-9._/-]+' || true; } \
        | sed -E 's#^(file://|[= ])##; s#/simple/?$##' | sort -u \
        | while read -r folder; do [ ! -d "$folder" ] || echo "$folder:$folder"; done
}
