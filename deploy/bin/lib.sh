# shellcheck shell=bash disable=SC2034
# What install, upgrade, uninstall and wheelhouse share. Sourced, never run.

SOURCE=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
HOME_DIR=/opt/telegram-gateway
RELEASES=$HOME_DIR/releases
INSTALLER=$HOME_DIR/pip
CURRENT=$HOME_DIR/venv
CONFIG=/etc/telegram-gateway
STATE=/var/lib/telegram-gateway
BACKUPS=/var/backups/telegram-gateway
UNITS=/usr/local/lib/systemd/system
OPERATORS_COMMAND=/usr/local/bin/telegram-gateway
LEAST_FREE_KB=$((1 << 20))

PYTHON=/usr/bin/python3
WHEELHOUSE=
DRY_RUN=no
TOOL=$(basename "$0")
umask 022

say() { printf '%s: %s\n' "$TOOL" "$*"; }

die() {
    printf '%s: %s\n' "$TOOL" "$*" >&2
    exit 1
}

# Every change goes through here, so that --dry-run makes none.
run() {
    if [ "$DRY_RUN" = yes ]; then say "  would run: $*"; else "$@"; fi
}

require_root() {
    [ "$(id -u)" -eq 0 ] || die "it writes to /opt, /etc and systemd; run it as root"
    [ -d /run/systemd/system ] || die "systemd does not run here; the gateway's units need it"
}

require_python() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        die "$PYTHON is not Python 3.11 or newer; name one with --python"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$PYTHON cannot make environments; apt-get install python3-venv"
}

# The units hide these directories from the gateway, and with them an interpreter that stands there.
require_visible_python() {
    case "$("$PYTHON" -c 'import sys; print(sys.base_prefix)')/" in
        /root/* | /home/* | /run/user/* | /tmp/*)
            die "$PYTHON stands where the units cannot see it; use one below /usr or /opt" ;;
    esac
}

require_disk() {
    local free
    free=$(df --output=avail -k "$(dirname "$HOME_DIR")" | tail -1)
    [ "$free" -ge "$LEAST_FREE_KB" ] || die "less than 1 GB is free in $(dirname "$HOME_DIR"); make room first"
}

source_version() { sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$SOURCE/gateway/__init__.py"; }

# Empty when nothing is installed.
installed_version() { if [ -e "$CURRENT/bin/telegram-gateway" ]; then basename "$(readlink -f "$CURRENT")"; fi; }

# -- releases ---------------------------------------------------------------------------------------------------

# One pip for all releases, which need none of their own.
pip() {
    if ! "$INSTALLER/bin/python" -m pip --version >/dev/null 2>&1; then
        "$PYTHON" -m venv --clear "$INSTALLER"
    fi
    "$INSTALLER/bin/python" -m pip --isolated --disable-pip-version-check --no-input "$@"
}

# Downloads go to the registry that pip is configured for; every file must have a hash from the lock.
make_wheelhouse() {
    local directory=$1 scratch
    scratch=$(mktemp -d)
    say "downloading the locked packages, and building the gateway, with $PYTHON"
    "$PYTHON" -m venv "$scratch/venv"
    # The build itself is locked too: setuptools with its hashes, as the development lock has it.
    awk '/^setuptools==/ {found = 1} found {print} found && !/\\$/ {exit}' \
        "$SOURCE/requirements-dev.txt" >"$scratch/build.txt"
    cp -a "$SOURCE"/{gateway,sql,pyproject.toml,README.md,LICENSE} "$scratch"
    local wheel=("$scratch/venv/bin/python" -m pip --disable-pip-version-check --no-input)
    "${wheel[@]}" install --quiet --require-hashes --requirement "$scratch/build.txt"
    wheel+=(wheel --quiet --no-build-isolation --wheel-dir "$directory")
    "${wheel[@]}" --require-hashes --requirement "$SOURCE/requirements.txt"
    "${wheel[@]}" --no-deps "$scratch"
    rm -rf "$scratch"
    (cd "$directory" && sha256sum -- *.whl >SHA256SUMS)
    say "$(find "$directory" -name '*.whl' | wc -l) packages in $directory"
}

require_wheelhouse() {
    compgen -G "$WHEELHOUSE/telegram_gateway-$1-*.whl" >/dev/null ||
        die "$WHEELHOUSE holds no telegram_gateway-$1; make it from this checkout: deploy/bin/wheelhouse $WHEELHOUSE"
    if [ -e "$WHEELHOUSE/SHA256SUMS" ]; then
        (cd "$WHEELHOUSE" && sha256sum --check --quiet --strict SHA256SUMS) ||
            die "files in $WHEELHOUSE are not those of its SHA256SUMS; copy or make it again"
    else
        say "  $WHEELHOUSE has no SHA256SUMS: its files are taken as they are"
    fi
}

# A release is whole once it holds `.complete`; one that is not is made again.
build_release() {
    local version=$1 release=$RELEASES/$1 scratch=
    if [ -e "$release/.complete" ]; then
        say "  $release is there already"
        return
    fi
    if [ "$DRY_RUN" = yes ]; then
        say "  would make $release from ${WHEELHOUSE:-packages that pip downloads, checked against requirements.txt}"
        return
    fi
    require_disk
    if [ -z "$WHEELHOUSE" ]; then
        scratch=$(mktemp -d)
        make_wheelhouse "$scratch"
    fi
    rm -rf "$release"
    mkdir -p "$RELEASES"
    "$PYTHON" -m venv --without-pip "$release"
    pip --python "$release/bin/python" install --quiet --no-index --find-links "${WHEELHOUSE:-$scratch}" \
        --only-binary :all: --no-compile "telegram-gateway==$version"
    # The gateway's user cannot write bytecode there, and without it every start takes seconds longer.
    "$release/bin/python" -m compileall -q -j 0 "$release/lib"
    mkdir -p "$release/share/systemd"
    cp "$SOURCE"/systemd/telegram-gateway* "$release/share/systemd"
    install -m 0755 "$SOURCE/deploy/bin/telegram-gateway" "$release/share/telegram-gateway"
    cp "$SOURCE/deploy/telegram-gateway.env" "$release/share/telegram-gateway.env"
    [ "$("$release/bin/telegram-gateway" --version)" = "telegram-gateway, version $version" ] ||
        die "$release does not run; nothing uses it, remove it"
    touch "$release/.complete"
    if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}

# In one step: whoever starts meanwhile finds the one release or the other.
switch_link() {
    run ln -sfn "releases/$1" "$CURRENT.new" && run mv -T "$CURRENT.new" "$CURRENT"
}

# -- systemd ----------------------------------------------------------------------------------------------------

destination() {
    case $1 in
        *.sysusers) echo "/usr/local/lib/sysusers.d/telegram-gateway.conf" ;;
        *.tmpfiles) echo "/usr/local/lib/tmpfiles.d/telegram-gateway.conf" ;;
        *) echo "$UNITS/$1" ;;
    esac
}

# The user and the directories, then the units; a second argument is the release whose files are replaced.
install_units() {
    local shipped=$RELEASES/$1/share/systemd before=${2:+$RELEASES/$2/share/systemd} file name place
    # A dry run has made no release yet.
    if [ ! -d "$shipped" ]; then shipped=$SOURCE/systemd; fi
    local command=$shipped/../telegram-gateway
    if [ ! -e "$command" ]; then command=$SOURCE/deploy/bin/telegram-gateway; fi
    for file in "$shipped"/*; do
        name=$(basename "$file") place=$(destination "$(basename "$file")")
        if [ -e "$place" ] && ! cmp -s "$file" "$place" && ! cmp -s "${before:-$shipped}/$name" "$place"; then
            say "  $place was changed by hand and is kept; put changes into drop-ins: systemctl edit $name"
            continue
        fi
        cmp -s "$file" "$place" || run install -D -m 0644 "$file" "$place" || return
    done
    if [ -n "$before" ]; then
        for file in "$before"/*; do
            name=$(basename "$file")
            if [ ! -e "$shipped/$name" ]; then run rm -f "$(destination "$name")" || return; fi
        done
    fi
    run systemd-sysusers telegram-gateway.conf &&
        run systemd-tmpfiles --create telegram-gateway.conf &&
        run install -D -m 0755 "$command" "$OPERATORS_COMMAND" &&
        run systemctl daemon-reload
}

# The gateway's command of one release, as the gateway's user and with its configuration.
as_gateway() { TELEGRAM_GATEWAY_PROGRAM=$RELEASES/$1/bin/$2 "$SOURCE/deploy/bin/telegram-gateway" "${@:3}"; }

# False also where the settings are wrong: the command that comes next says what is.
database_off() {
    [ "$(as_gateway "$1" python -I -c \
        'from gateway.settings import load_settings; print(load_settings().enable_db)' 2>/dev/null)" = False ]
}

# Every unit of ours that systemd runs, is starting, or has seen fail; one that was stopped is not among them.
our_units() {
    systemctl list-units --all --plain --no-legend \
        --state=active,reloading,activating,deactivating,failed 'telegram-gateway*' |
        awk '$1 ~ /\.(service|timer)$/ {print $1}'
}

# Active; and where a unit tells systemd itself when it is ready, also by its answer at /ready, wherever that is.
is_ready() {
    local pid variable address
    [ "$(systemctl show --property=ActiveState --value "$1")" = active ] || return 1
    [ "$(systemctl show --property=Type --value "$1")" = notify ] || return 0
    case $1 in
        telegram-gateway-api.service) variable=TELEGRAM_API_ADDR address=127.0.0.1:4010 ;;
        telegram-gateway-tp-capital.service) variable=TP_CAPITAL_METRICS_ADDR address=127.0.0.1:4011 ;;
        *) variable=TELEGRAM_METRICS_ADDR address=127.0.0.1:4006 ;;
    esac
    pid=$(systemctl show --property=MainPID --value "$1")
    local configured
    configured=$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | sed -n "s/^$variable=//p") || return 1
    "$PYTHON" - "http://${configured:-$address}/ready" 2>/dev/null <<'PYTHON'
import sys
from urllib.request import ProxyHandler, build_opener

build_opener(ProxyHandler({})).open(sys.argv[1], timeout=5)
PYTHON
}
