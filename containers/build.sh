#!/usr/bin/env bash
# Build and run the image with podman and buildah on a bare machine, without a Docker daemon and,
# where no registry of images can be reached, on a base image made here from Debian's packages.
#
#   containers/build.sh build [TAG] [OPTION...]   base image if need be, then ../Dockerfile
#   containers/build.sh probe                     base image, and whether it runs here
#   containers/build.sh base FILE                 the base image alone, as an archive
#   containers/build.sh run ARGUMENT...           podman run, with the settings of the build
#   containers/build.sh save TAG FILE             the image as an archive, for Apptainer
#   containers/build.sh remove [TAG...]           images, what was kept of their build, the stand-in
#
# Needs root, podman, buildah and runc; mmdebstrap for the stand-in of the base image.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=docker.io/library/python:3.11-slim-bookworm
stand_in=localhost/kraken-bids-base
lab=$(mktemp -d)
trap 'rm -rf "$lab"' EXIT
source containers/lend_pip_settings.sh

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
    buildah commit -q --rm "$container" "$stand_in" >/dev/null
}

# Have a base image, the official one if possible, and set its name.
find_base() {
    if podman image exists "$base" || timeout 60 podman pull -q "$base" >/dev/null 2>&1; then
        return
    fi
    base=$stand_in
    podman image exists "$base" || make_stand_in
}

build() {
    local tag=localhost/kraken-bids lent=() pair
    case "${1:-}" in "" | -*) ;; *) tag=$1; shift ;; esac
    find_base
    while read -r pair; do lent+=(-v "$pair:ro"); done < <(lend_pip_settings "$lab")
    buildah bud --layers --pull-never --format docker "${lent[@]}" \
        --build-arg "BASE=$base" \
        --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
        --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$@" -t "$tag" . >&2
    say "$tag: $(podman image inspect --format '{{.Size}}' "$tag") bytes"
}

# Apptainer binds only to what is there: the archive has empty places for what pip needs here.
save_base() {
    local container mounted from to
    find_base
    container=$(buildah from --pull-never "$base")
    mounted=$(buildah mount "$container")
    while IFS=: read -r from to; do
        if [ -d "$from" ]; then mkdir -p "$mounted$to"; else touch "$mounted$to"; fi
    done < <(lend_pip_settings "$lab")
    buildah umount "$container" >/dev/null
    buildah commit -q --rm "$container" "docker-archive:$1:kraken-bids-base" >/dev/null
}

remove() {
    local kept attempt name
    # One after the other: podman fails at images that another call removes while it lists them.
    exec 9> "${TMPDIR:-/tmp}/kraken-bids-images.lock"
    flock 9
    for name in "$@"; do
        ! podman image exists "$name" || podman rmi -f "$name" >/dev/null
    done
    # An image takes its untagged parents along, which the same call then does not find.
    for attempt in 1 2 3 4; do
        kept=$(podman images -aq --filter label=kraken-bids.build --filter dangling=true | sort -u)
        [ -n "$kept" ] || break
        [ "$attempt" -lt 4 ] || { say "not removed: $kept"; exit 1; }
        xargs podman rmi -f <<< "$kept" >/dev/null 2>&1 || true
    done
    ! podman image exists "$stand_in" || podman rmi -f "$stand_in" >/dev/null
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
    build) build "$@" ;;
    probe) find_base && podman run --rm --network none "$base" python -c 'print("runs")' ;;
    base) save_base "$1" ;;
    run) podman run --rm "$@" ;;
    save) podman save -q --format docker-archive -o "$2" "$1" ;;
    remove) remove "$@" ;;
    *) sed -n 's/^# \{0,1\}//p; /^set/q' "containers/build.sh" >&2; exit 2 ;;
esac
