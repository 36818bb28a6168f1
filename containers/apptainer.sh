#!/usr/bin/env bash
# Apptainer on a machine that has none: Debian's own, in a private root, for the tests.
#
#   containers/apptainer.sh install [PACKAGE...]   makes the root (300 MB), with these, too
#   containers/apptainer.sh user WORD...           runs a command in it, as an ordinary user
#   containers/apptainer.sh remove                 and nothing is left
#
# The user's files are in /share, which is $KRAKEN_APPTAINER/share outside; this repository is
# /source, read-only. What pip needs on this machine lies where it does outside, and so do the
# folders of $KRAKEN_APPTAINER_LENT (PATH:PATH).
#
# Needs root and mmdebstrap, and Debian's address in /etc/apt/sources.list.d/debian.sources.
# Apptainer is packaged for Debian sid alone; nothing of it is installed on this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
lab=${KRAKEN_APPTAINER:-/var/tmp/kraken-apptainer}
root=$lab/root
share=$lab/share
source containers/lend_pip_settings.sh

say() { printf 'apptainer: %s\n' "$*" >&2; }

install_root() {
    local sources=/etc/apt/sources.list.d/debian.sources packages
    packages=$(printf ',%s' apptainer squashfs-tools squashfuse fuse3 fuse-overlayfs fakeroot uidmap "$@")
    [ ! -x "$root/usr/bin/apptainer" ] || return 0
    [ -s "$sources" ] || { say "there is no $sources: this machine is no Debian 12"; exit 1; }
    mkdir -p "$lab"
    # The machine's own source of packages, for another suite; sid has no security updates.
    awk 'BEGIN { RS = ""; ORS = "\n\n" } !/security/' "$sources" \
        | sed -E 's/^Suites:.*/Suites: sid/' > "$lab/sid.sources"
    mmdebstrap -q --variant=minbase \
        --include="ca-certificates$packages" \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        sid "$root" "$lab/sid.sources"
    echo 'user:x:1000:1000::/share:/bin/bash' >> "$root/etc/passwd"
    echo 'user:x:1000:' >> "$root/etc/group"
    # The ids that --fakeroot may use.
    echo 'user:200000:65536' | tee "$root/etc/subuid" > "$root/etc/subgid"
    mkdir -p "$root/share" "$root/source" "$root/.old" "$share/tmp"
    chown -R 1000:1000 "$share"
}

as_user() {
    local to
    lend_pip_settings "$lab" > "$lab/lent"
    tr ':' '\n' <<< "${KRAKEN_APPTAINER_LENT:-}" | sed -n 's/..*/&:&/p' > "$lab/lent_too"
    chmod a+x "$root/root"  # the way to what is lent from there
    for to in resolv.conf hosts localtime; do
        [ -e "$root/etc/$to" ] || : > "$root/etc/$to"
    done
    export root share lab source=$PWD
    # shellcheck disable=SC2016  # what is in quotes is for the inner shell
    # pivot_root, because Apptainer finds no parent mount point after a plain chroot.
    exec unshare --mount bash -euc '
        mount --make-rprivate /
        mount --bind "$root" "$root"
        mount -t proc proc "$root/proc"
        mount --rbind /sys "$root/sys"
        mount --rbind /dev "$root/dev"
        mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
        mount --bind "$share" "$root/share"
        mount --bind -o ro "$source" "$root/source"
        mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
        mount --bind /etc/hosts "$root/etc/hosts"
        while IFS=: read -r from to; do
            mkdir -p "$root${to%/*}"
            if [ -d "$from" ]; then mkdir -p "$root$to"; else touch "$root$to"; fi
            mount --bind "$from" "$root$to"
        done < <(cat "$lab/lent" "$lab/lent_too")
        # The machine may keep FUSE to itself.
        mknod -m 666 "$root/tmp/fuse" c 10 229
        mount --bind "$root/tmp/fuse" "$root/dev/fuse"
        cd "$root"
        pivot_root . .old
        umount -l /.old
        cd /share
        hash -r
        exec setpriv --reuid 1000 --regid 1000 --init-groups env -i HOME=/share LANG=C.UTF-8 \
            PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
            APPTAINER_TMPDIR=/share/tmp APPTAINER_CACHEDIR=/share/tmp/cache "$@"' _ "$@"
}

command=${1:-}
[ $# -eq 0 ] || shift
case "$command" in
    install) install_root "$@" ;;
    user) as_user "$@" ;;
    remove) rm -rf "$lab" ;;
    *) sed -n 's/^# \{0,1\}//p; /^set/q' "containers/apptainer.sh" >&2; exit 2 ;;
esac
