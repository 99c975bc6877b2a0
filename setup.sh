#!/usr/bin/env bash
# Makes .venv: everything that training on this machine's CPU, and the tests, need.
#
# Usage: ./setup.sh            (`make setup`, `make train` and `make test` call it)
#   PYTHON=/path/to/python3.11 ./setup.sh      to choose the interpreter
#
# It may be interrupted and run again at any time: what is in place stays, what is missing or half written is done again.
# Where nothing has changed since it last finished, it ends at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly venv=$PWD/.venv
readonly log=$venv/setup.log
readonly stamp=$venv/.complete # holds the fingerprint of what was installed; written last
readonly need_gb=5

say() { printf '[%3ds] %s\n' "$SECONDS" "$*"; }

fail() {
    printf '\nSet-up stopped: %s\n' "$1" >&2
    shift
    printf '  %s\n' "$@" >&2
    exit 1
}

# step TITLE HINT COMMAND...: announce, run quietly, and on failure show the end of the log and what to do.
step() {
    local title=$1 hint=$2 status=0
    shift 2
    say "$title"
    printf '\n== %s: %s\n' "$title" "$*" >>"$log"
    "$@" >>"$log" 2>&1 || status=$?
    [ "$status" -eq 0 ] && return
    [ "$status" -ge 128 ] && interrupted
    {
        printf '\nThe end of %s:\n' "$log"
        grep -v "is neither a file nor a directory" "$log" | tail -n 15 | cut -c1-220
    } >&2
    if tail -n 60 "$log" | grep -qiE 'name resolution|connection (refused|error|broken|timed out)|max retries|network is unreachable|read timed out|proxyerror|newconnectionerror'; then
        hint="the package index could not be reached. Check the network (and pip's index, proxy and certificate settings: pip config list)."
    elif tail -n 60 "$log" | grep -qi 'no space left'; then
        hint="the disk is full. Free about $need_gb GB."
    fi
    fail "\"$title\" failed." "What to do: $hint" "Then run the same command again: it goes on from here."
}

interrupted() {
    trap - INT TERM
    kill $(jobs -p) 2>/dev/null || true
    printf '\nInterrupted. Run the same command again to go on from here.\n' >&3
    exit 130
}
exec 3>&2 # a signal may arrive while standard error goes to the log
trap interrupted INT TERM

fingerprint() {
    {
        printf '%s\n' "$PWD"
        cat setup.sh pyproject.toml requirements/*.txt requirements/vllm-shim/pyproject.toml
    } | sha256sum | cut -d' ' -f1
}

is_complete() {
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$1" ] && "$venv/bin/python" -c '' 2>/dev/null
}

# --- Debian packages ---------------------------------------------------------------------------------------------------

# What is missing of: bubblewrap (confines the code that a model writes), a C compiler and Python's headers and venv module.
missing_packages() {
    command -v bwrap >/dev/null || echo bubblewrap
    command -v gcc >/dev/null || echo gcc
    local python
    if ! python=$(find_python); then
        echo python3 python3-dev python3-venv
        return
    fi
    "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    "$python" -c 'import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null || echo python3-dev
}

# Does what it can; what must be there is checked afterwards by require_basics.
install_packages() {
    local packages=("$@") sudo=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! sudo -n true 2>/dev/null; then
            say "not installed, for want of rights: ${packages[*]}"
            return 0
        fi
        sudo=(sudo -n)
    fi
    command -v apt-get >/dev/null || return 0
    say "Debian packages: ${packages[*]}"
    mkdir -p "$venv"
    {
        "${sudo[@]}" apt-get update
        "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
    } >>"$log" 2>&1 </dev/null || say "apt-get could not install them (see $log)"
}

require_basics() {
    local missing
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] && return
    local how="as root, run: apt-get update && apt-get install -y $missing"
    if [ "${missing% }" = bubblewrap ]; then
        say "warning: bubblewrap is missing, and without it code written by a model is not run at all; $how"
        return
    fi
    fail "this machine lacks: $missing" "What to do: $how" \
        "Where Python 3.11 lies elsewhere, name it: PYTHON=/path/to/python3.11 $0"
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3.11}" python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
        [ -n "${PYTHON:-}" ] && break
    done
    return 1
}

# --- the environment ---------------------------------------------------------------------------------------------------

require_disk() {
    local free_kb
    free_kb=$(df -Pk . | awk 'NR == 2 {print $4}')
    [ "$free_kb" -ge $((need_gb * 1024 * 1024)) ] ||
        fail "$PWD has $((free_kb / 1024 / 1024)) GB free; $need_gb GB are needed." "What to do: free some, or clone to another disk."
}

is_usable() {
    "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null
}

# Forget packages whose files are not all there, as an interrupted pip leaves them, so that pip installs them again.
drop_partial() {
    "$venv/bin/python" - <<'PY'
import shutil
from importlib.metadata import distributions

for distribution in list(distributions()):
    folder = distribution._path
    if folder.suffix != ".dist-info":
        continue
    files = distribution.files
    if files is None or any(file.suffix != ".pyc" and not file.locate().exists() for file in files):
        print("incomplete, to be installed again:", folder.name)
        shutil.rmtree(folder)
PY
}

pip_install() {
    # Bytecode is not compiled here: first_imports does that for the modules that are used, in a fraction of the time.
    TMPDIR=$venv/tmp "$venv/bin/python" -m pip install --no-compile --no-input --progress-bar off --disable-pip-version-check "$@"
}

# Import what a run imports. That shows that the set works, and leaves bytecode behind for the dozen processes of a run.
first_imports() {
    local engine trainer status=0 packages
    packages=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    local run=(env -u PYTHONDONTWRITEBYTECODE VLLM_LOGGING_LEVEL=ERROR "$venv/bin/python" -W ignore -c)
    env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -m compileall -q -j 0 "$packages"/{ray,verl,compressed_tensors,opencensus} ||
        true # a file that does not compile is one that nothing imports
    "${run[@]}" 'import torch, vllm.entrypoints.openai.api_server, vllm.v1.engine.async_llm, vllm.v1.worker.cpu_worker' &
    engine=$!
    "${run[@]}" 'import verl.trainer.main_ppo, verl.workers.engine_workers, verl.workers.engine.fsdp.transformer_impl, reasoning_gym, math_verify' &
    trainer=$!
    wait "$engine" || status=$?
    wait "$trainer" || status=$?
    return "$status"
}

main() {
    local wanted python missing
    wanted=$(fingerprint)
    is_complete "$wanted" && return

    exec 9<setup.sh # one set-up at a time
    if ! flock -n 9; then
        say "another set-up is at work here; waiting for it"
        flock 9
        is_complete "$wanted" && return
    fi

    say "setting up $venv (about two minutes with a fast network; details in .venv/setup.log)"
    [ -z "${PYTHON:-}" ] || find_python >/dev/null ||
        fail "PYTHON=$PYTHON is not a Python 3.11." "What to do: name one that is, or leave PYTHON unset."
    read -ra missing <<<"$(missing_packages | tr '\n' ' ')"
    [ "${#missing[@]}" -eq 0 ] || install_packages "${missing[@]}"
    require_basics
    python=$(find_python)

    if ! is_usable; then
        require_disk
        [ ! -d "$venv/bin" ] || say "the environment is broken or half made; making it anew"
        mkdir -p "$venv"
        find "$venv" -mindepth 1 -maxdepth 1 ! -name setup.log -exec rm -rf {} +
        step "virtual environment" "see that '$python -m venv' works." "$python" -m venv "$venv"
    else
        step "looking over what is installed" "remove .venv." drop_partial
    fi
    rm -f "$stamp"
    mkdir -p "$venv/tmp"

    local locks=(-r requirements/cpu.txt -r requirements/dev.txt) again="read the log; 'make clean' and another try start afresh."
    step "pip" "$again" pip_install pip==26.3 -c requirements/cpu.txt setuptools
    step "torch" "$again" pip_install -c requirements/cpu.txt torch
    step "the other $(cat requirements/*.txt | grep -c ==) packages (the long step)" "$again" \
        pip_install --no-deps --no-build-isolation "${locks[@]}" ./requirements/vllm-shim -e .
    step "first imports" "$again" first_imports
    rm -rf "$venv/tmp"
    echo "$wanted" >"$stamp"
    say "ready"
}

main
