#!/bin/sh
# Makes .venv with the pinned packages and the project itself, and installs the servers that the demo and the
# integration tests start. Called by the Makefile, from the root of the repository:
#
#   requirements/install.sh servers    Prometheus and Alertmanager, from Debian's packages
#   requirements/install.sh databases  PostgreSQL, from Debian's package; only tests and benchmarks start one
#   requirements/install.sh python     the virtual environment, with requirements/dev.txt
#   requirements/install.sh project    dsctl itself, editable
#
# Prints one line for each thing it does. What the tools say goes to .venv/setup.log (servers: var/servers.log), whose
# end is shown when one of them fails.
set -eu

say() { printf 'setup: %s\n' "$*"; }

refuse() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# quietly LOG COMMAND...: run it with its output in LOG; on failure show the end of that and stop.
quietly() {
    log=$1
    shift
    mkdir -p "$(dirname "$log")"
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        printf 'setup: failed: %s\n' "$*" >&2
        tail -n 20 "$log" | sed 's/^/  | /' >&2
        refuse "the whole output is in $log; put right what it names, then run the same make command again"
    fi
}

# install_packages WHY PACKAGE...: from Debian, where we may; otherwise say what to install.
install_packages() {
    why=$1
    shift
    as_root=
    if [ "$(id -u)" -ne 0 ]; then
        as_root='sudo -n'
        sudo -n true 2>/dev/null || refuse "$why needs the packages '$*': install them as root (apt-get install $*)"
    fi
    command -v apt-get >/dev/null || refuse "$why needs '$*', and this system has no apt-get: install them, then run make again"
    say "installing $* with apt-get"
    quietly var/servers.log $as_root apt-get update -q
    # Debian starts a service at installation where it may. The demo and the tests start their own on free ports.
    quietly var/servers.log $as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get install -q -y --no-install-recommends "$@"
}

servers() {
    missing=
    command -v prometheus >/dev/null && command -v promtool >/dev/null || missing="prometheus"
    command -v prometheus-alertmanager >/dev/null && command -v amtool >/dev/null || missing="$missing prometheus-alertmanager"
    # shellcheck disable=SC2086  # a list of package names
    [ -z "$missing" ] || install_packages "the demo" $missing
}

databases() {
    # Debian keeps the server's programs out of PATH.
    command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ||
        install_packages "the tests on PostgreSQL" postgresql
}

# The pins are resolved for 3.11; newer releases are taken where 3.11 is absent.
find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
}

make_venv() {
    python=$(find_python)
    if [ -z "$python" ]; then
        install_packages "dsctl" python3 python3-venv
        python=$(find_python)
        [ -n "$python" ] || refuse "dsctl needs Python 3.11 or newer; name one: make setup PYTHON=/path/to/python3.11"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        install_packages "a virtual environment" "python$version-venv"
    fi
    say "making .venv with $("$python" --version)"
    quietly var/setup.log "$python" -m venv --clear .venv
}

# uv does not read pip's configuration: hand over what pip was told about where packages come from.
follow_pip() {
    links=${PIP_FIND_LINKS:-$(.venv/bin/pip config get global.find-links 2>/dev/null || true)}
    index=${PIP_INDEX_URL:-$(.venv/bin/pip config get global.index-url 2>/dev/null || true)}
    if [ -n "$links" ] && [ -z "${UV_FIND_LINKS:-}" ]; then
        UV_FIND_LINKS=$(printf '%s' "$links" | tr -s ' \n' ',')
        export UV_FIND_LINKS
    fi
    if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}" ]; then
        UV_DEFAULT_INDEX=$index
        export UV_DEFAULT_INDEX
    fi
}

python() {
    # A virtual environment whose interpreter went away cannot be mended, only made again.
    .venv/bin/python -c '' 2>/dev/null || make_venv
    say "installing the pinned packages (one to five minutes the first time)"
    if .venv/bin/pip install -q uv==0.13.9 >>.venv/setup.log 2>&1; then
        follow_pip
        if .venv/bin/uv pip install -q -r requirements/dev.txt --python .venv/bin/python >>.venv/setup.log 2>&1; then
            return
        fi
        say "uv could not install them; trying pip, which is slower"
    fi
    quietly .venv/setup.log .venv/bin/pip install -q -r requirements/dev.txt
}

project() {
    quietly .venv/setup.log .venv/bin/pip install -q --no-deps --no-build-isolation -e .
    say "ready: .venv/bin/dsctl --help"
}

case "${1:-}" in
servers | databases | python | project) "$1" ;;
*) refuse "say which part: servers, databases, python or project" ;;
esac
