#!/usr/bin/env bash
# Build and run the image with podman and buildah on a bare machine, without a Docker daemon and,
# where no registry of images can be reached, on a base image made here from Debian's packages.
#
#   containers/build.sh build [TAG] [OPTION...]   base image if need be, then ../Dockerfile
#   containers/build.sh run ARGUMENT...           podman run, with the settings of the build
#   containers/build.sh save TAG FILE             the image as an archive, for Apptainer
#   containers/build.sh remove TAG                the image and its layers
#
# Needs root, podman, buildah and runc; mmdebstrap for the stand-in of the base image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=docker.io/library/python:3.11-slim-bookworm
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT

say() { printf 'image: %s\n' "$*" >&2; }

# runc works with every kind of cgroups; limits and networks are those of the host, for which
# neither CAP_SYS_RESOURCE nor iptables is needed.
cat > "$lab/containers.conf" <<'CONF'
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
netns = "host"
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
export CONTAINERS_CONF=$lab/containers.conf

# What pip needs here (settings, certificates, folders with wheels) is lent to the build: mounted,
# so that nothing of it stays in the image.
lent=()
lend_pip_settings() {
    local folder files=(/etc/pip.conf "$HOME/.pip/pip.conf" "$HOME/.config/pip/pip.conf")
    for folder in /etc/ssl/certs /usr/local/share/ca-certificates; do
        [ ! -d "$folder" ] || lent+=(-v "$folder:$folder:ro")
    done
    # One section of that name only: pip refuses a second one.
    { cat "${files[@]}" 2>/dev/null || true; } | awk '!(/^\[global\]/ && seen++)' > "$lab/pip.conf"
    lent+=(-v "$lab/pip.conf:/etc/pip.conf:ro")
    while read -r folder; do
        [ ! -d "$folder" ] || lent+=(-v "$folder:$folder:ro")
    done < <(grep -v '^#' "$lab/pip.conf" | grep -oE '(file://|[= ])/[A-Za-z0-9._/-]+' \
        | sed -E 's#^(file://|[= ])##; s#/simple/?$##' | sort -u)  # an index lies beside its files
}

# A Debian 12 with its own Python 3.11 where python:3.11-slim-bookworm would have another build.
make_stand_in() {
    local container
    say "no registry of images can be reached: making a base image of Debian's packages"
    mmdebstrap -q --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        bookworm - "$(find /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list \
            -size +0 2>/dev/null | head -n 1)" > "$lab/base.tar"
    container=$(buildah from scratch)
    buildah add -q "$container" "$lab/base.tar" / >/dev/null
    rm "$lab/base.tar"
    buildah run "$container" -- sh -ec '
        rm -rf /usr/lib/python3*/EXTERNALLY-MANAGED /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
        ln -s /usr/bin/python3 /usr/local/bin/python
        ln -s /usr/bin/pip3 /usr/local/bin/pip'
    buildah config --cmd python3 "$container"
    buildah commit -q --rm "$container" "$base" >/dev/null
}

build() {
    local tag=${1:-localhost/kraken-bids}
    [ $# -eq 0 ] || shift
    podman image exists "$base" || timeout 60 podman pull -q "$base" >/dev/null 2>&1 \
        || make_stand_in
    lend_pip_settings
    buildah bud --pull-never --format docker "${lent[@]}" "$@" -t "$tag" . >&2
    say "$tag: $(podman image inspect --format '{{.Size}}' "$tag") bytes"
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
    build) build "$@" ;;
    run) podman run --rm "$@" ;;
    save) podman save -q --format docker-archive -o "$2" "$1" ;;
    remove) podman rmi -f "$1" >/dev/null ;;
    *) sed -n 's/^# \{0,1\}//p; /^set/q' "containers/build.sh" >&2; exit 2 ;;
esac
