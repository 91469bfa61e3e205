#!/usr/bin/env bash
# Builds the image of the Dockerfile and trains in it, for real and without a container engine: buildah with chroot
# isolation, on a base image made by debootstrap. Run as root on Debian: bash scripts/docker_check.sh
#
# The machine's own settings for apt, pip and proxies are used for the build and must not end up in the image.
# From the environment: TMPDIR (where 45 GB are needed for a while, 15 with STORAGE_DRIVER=overlay; default /var/tmp),
# STORAGE_DRIVER (default vfs), SUITE (default bookworm), MIRROR (default: apt's), PIP_ARGS and CONSTRAINTS (as in the
# Dockerfile).
# shellcheck disable=SC2016  # quoted programs are for shells in the container
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || fail "debootstrap and chroot isolation need root"
missing=()
for tool in buildah debootstrap python3; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    command -v apt-get >/dev/null || fail "missing: ${missing[*]}"
    say "installing on this machine with apt-get: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null
fi

driver="${STORAGE_DRIVER:-vfs}"
needed=45
[ "$driver" = vfs ] || needed=15
parent="${TMPDIR:-/var/tmp}"
free=$(($(df --output=avail -k "$parent" | tail -1) / 1000000))
[ "$free" -ge "$needed" ] || fail "TMPDIR=$parent: must have $needed GB free, has $free"

work=$(mktemp -d "$parent/docker_check.XXXXXX")
export TMPDIR="$work/tmp"
mkdir "$work"/{tmp,rootfs,context,machine,machine/apt,machine/sources,runs}

buildah_() { buildah --root "$work/storage" --runroot "$work/run" --storage-driver "$driver" "$@"; }
clean_up() {
    buildah_ rm --all >/dev/null 2>&1 || true
    buildah_ rmi --all --force >/dev/null 2>&1 || true
    for mounted in "$work/storage/$driver" "$work/rootfs/proc" "$work/rootfs/sys"; do
        umount "$mounted" 2>/dev/null || true
    done
    if grep -qF " $work/" /proc/self/mountinfo; then
        echo "left behind, as something is still mounted there: $work" >&2
    else
        rm -rf --one-file-system "$work"
    fi
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say "the machine's settings for apt and pip"
suite="${SUITE:-bookworm}"
mirror="${MIRROR:-$(apt-get indextargets --format "\$(CODENAME) \$(REPO_URI)" 'Created-By: Packages' |
    sed -n "s/^$suite //p" | head -1)}"
[ -n "$mirror" ] || fail "apt knows no mirror of $suite: name one with MIRROR=URL"
echo "deb $mirror $suite main" >"$work/machine/sources/machine.list"
apt-config dump | grep -E '^Acquire::(http|https|Check|Retries)' >"$work/machine/apt/machine.conf" || true
certificates="${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}"
[ ! -e "$certificates" ] || cp "$certificates" "$work/machine/certificates.crt"
# Folders of this machine that pip looks into are not visible in the build and left out.
{ python3 -m pip config list 2>/dev/null || true; } | python3 -c '
import ast, sys
keys = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries", "find-links")
settings = {}
for line in sys.stdin:
    name, _, value = line.strip().partition("=")
    section, _, key = name.rpartition(".")
    key = key.removeprefix("default-")
    if section in ("global", "install", ":env:") and key in keys:
        places = ast.literal_eval(value).split()
        kept = " ".join(place for place in places if not place.startswith(("/", "file:")))
        # The environment comes first here and goes before the files.
        if kept and (section == ":env:" or key not in settings):
            settings[key] = kept
print("[global]", *(f"{key} = {value}" for key, value in settings.items()), "cert = /mnt/certificates.crt", sep="\n")
' >"$work/machine/pip.conf"
[ -e "$certificates" ] || sed -i '/^cert/d' "$work/machine/pip.conf"
echo "apt: $(wc -l <"$work/machine/apt/machine.conf") settings; pip: $(($(wc -l <"$work/machine/pip.conf") - 1)) settings"

say "base image: debootstrap $suite"
if ! debootstrap --variant=minbase --include=ca-certificates "$suite" "$work/rootfs" "$mirror" >"$work/debootstrap.log"; then
    tail -20 "$work/debootstrap.log" >&2
    fail "debootstrap failed"
fi
# A base image that knows no mirror, so that what the image holds of one would come from the build.
rm -rf "$work/rootfs"/{etc/apt/sources.list,var/cache/apt/archives/*.deb,var/lib/apt/lists/*,var/log/bootstrap.log}
container=$(buildah_ from scratch)
buildah_ add --quiet "$container" "$work/rootfs" / >/dev/null
buildah_ commit --quiet --rm "$container" base:check >/dev/null
rm -rf --one-file-system "$work/rootfs"
buildah_ images --format '{{.Name}}:{{.Tag}} {{.Size}}' base:check

# The context is a copy, as the second build needs a changed source file; with folders that must not enter the image.
tar -c --exclude=./.venv --exclude=./.git --exclude=./runs --exclude=./data --exclude=./multirun . | tar -x -C "$work/context"
mkdir -p "$work/context"/{.git,.venv,runs,harness/__pycache__}
touch "$work/context"/{.git,.venv,runs,harness/__pycache__}/unwanted "$work/context/.env"

# /mnt and apt's folders are there in every Debian, so that mounting leaves nothing behind in a layer.
build() {
    local begin=$SECONDS
    buildah_ bud --layers --isolation chroot --pull-never --tag "$1" \
        --build-arg BASE=localhost/base:check --build-arg PIP_ARGS="${PIP_ARGS:-}" \
        --build-arg CONSTRAINTS="${CONSTRAINTS-scripts/constraints.txt}" \
        --secret "id=pip_conf,src=$work/machine/pip.conf" --volume "$work/machine:/mnt:ro" \
        --volume "$work/machine/sources:/etc/apt/sources.list.d:ro" --volume "$work/machine/apt:/etc/apt/apt.conf.d:ro" \
        "$work/context" >"$work/$1.log" 2>&1 || {
        tail -40 "$work/$1.log" >&2
        fail "the build failed"
    }
    grep -E '^(STEP|--> Using cache)' "$work/$1.log" | cut -c1-120
    echo "built in $((SECONDS - begin)) s"
}
run() { buildah_ run --isolation chroot "$@"; }

say "first build"
build first
echo "size of the image: $(buildah_ images --format '{{.Size}}' first)"

say "what the image is"
config() { buildah_ inspect --type image --format "{{range .OCIv1.Config.$1}}{{.}} {{end}}" first; }
read -ra entrypoint <<<"$(config Entrypoint)"
read -ra command <<<"$(config Cmd)"
container=$(buildah_ from --pull-never first)
user=$(run "$container" -- id -u)
echo "uid $user; ${entrypoint[*]} ${command[*]}"
[ "$user" != 0 ] || fail "the image runs as root"
run "$container" -- bash -euc '
    [ "$HOME" = ~app ] && touch "$HOME/here" "$MPLCONFIGDIR/here" runs/here data/here
    [ ! -w train.py ] && [ ! -w harness ]
    [ -s "$(echo "$MPLCONFIGDIR"/fontlist-*.json)" ]
    du -xsm /opt/venv | sed "s/^/megabytes of dependencies: /"
    ls -A /app'
run "$container" -- bash -c '! find / -xdev -name unwanted -o -path /app/.env -o -path /app/tests 2>/dev/null | grep .' ||
    fail "the image holds what .dockerignore should keep out"
# Addresses of this machine's mirrors, as far as it has any of its own.
hosts=$(cat "$work"/machine/{pip.conf,sources/*,apt/*} | sed -nE 's|.*://([^/" ]+).*|\1|p' | sort -u)
mounted=$(buildah_ mount "$container")
for host in $hosts; do
    if grep -rlIF --exclude-dir=doc -e "$host" "$mounted"/{etc,var,app,home,root,mnt,run,tmp} ||
        buildah_ inspect --type image first | grep -F -e "$host"; then
        fail "the image holds the address of a mirror"
    fi
done
if [ -n "$(ls -A "$mounted/mnt")" ] || [ -e "$mounted/etc/pip.conf" ]; then
    fail "the image holds the machine's settings"
fi
buildah_ umount "$container" >/dev/null

say "training, two epochs, as docker run would: ${entrypoint[*]} ${command[*]} epochs=2"
chown "$user:$user" "$work/runs"
begin=$SECONDS
run --volume "$work/runs:/app/runs" "$container" -- "${entrypoint[@]}" "${command[@]}" epochs=2
echo "trained in $((SECONDS - begin)) s"
summary=("$work"/runs/*/summary.json)
[ -e "${summary[0]}" ] || fail "no summary.json"
cat "${summary[0]}"
grep -q '"status": "completed"' "${summary[0]}" || fail "summary.json does not say completed"
[ "$(stat -c %u "${summary[0]}")" = "$user" ] || fail "summary.json does not belong to uid $user"
[ -z "$(find "$work/runs" ! -uid "$user")" ] || fail "files of another user in runs"

say "docker stop: SIGTERM while it trains"
rm -rf "${work:?}"/runs/*
status=0
run --volume "$work/runs:/app/runs" "$container" -- bash -c '
    "$@" epochs=2000 >runs/log 2>&1 &
    for _ in {1..120}; do
        [ -s "$(echo runs/*/metrics.jsonl)" ] && break
        sleep 1
    done
    kill -TERM $!
    wait $!' bash "${entrypoint[@]}" "${command[@]}" 2>"$work/stop.log" || status=$?
if [ "$status" != 143 ]; then
    cat "$work/stop.log" "$work/runs/log" >&2
    fail "exit status $status after SIGTERM"
fi
grep -q '"status": "interrupted"' "$work"/runs/*/summary.json || fail "summary.json does not say interrupted"
echo "exit status 143, summary.json says interrupted"
buildah_ rm "$container" >/dev/null

say "second build, after a change of a source file"
echo "# changed" >>"$work/context/harness/__init__.py"
build second
grep -A1 -E '^STEP .*pip install' "$work/second.log" | grep -q 'Using cache' || fail "the dependencies were installed again"
container=$(buildah_ from --pull-never second)
run "$container" -- tail -1 harness/__init__.py | grep -qx '# changed' || fail "the change is not in the image"

say "all passed; at the end $(du -sm --apparent-size "$work/storage" | cut -f1) MB of storage, removed now"
