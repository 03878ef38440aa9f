# What the runners of the tests that need real servers and clients share. To be sourced; sets `root`, `cache`, `skipped`.
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/completions-edge
skipped=()

say() { printf '[%4d s] %s: %s\n' "$SECONDS" "$suite" "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# A name for what these files say, so that a change of any of them is a new one.
fingerprint() { cat "$@" | cksum | tr ' ' -; }

# $1 is not there, so that $2. A user is told at the end; CI goes no further.
absent() {
  [[ ${CI:-} != true ]] || die "$1 is not installed, and CI runs everything"
  skipped+=("$1 is not installed: $2")
}

say_skipped() {
  local line
  for line in "${skipped[@]}"; do printf 'SKIPPED: %s\n' "$line" >&2; done
}

# npm runs on the machine's Node; miniflare needs the newer one of the repository, which comes first from here on.
setup_node() {
  local stamp wanted
  [[ -x $root/node_modules/.bin/node ]] || die "the npm packages are not installed: run scripts/setup"
  [[ -f $root/build/index.js || -n ${WORKER_BUILD:-} ]] || die "the Worker is not compiled: run make build"
  stamp=$root/tests/e2e/node_modules/.installed-from
  wanted=$(fingerprint "$root"/tests/e2e/package.json "$root"/tests/e2e/package-lock.json)
  if [[ $(cat "$stamp" 2>/dev/null) != "$wanted" ]]; then
    say "npm packages …"
    npm ci --prefix "$root/tests/e2e" --no-audit --no-fund --loglevel=error
    printf '%s' "$wanted" >"$stamp"
    say "npm packages: done"
  fi
  export PATH=$root/node_modules/.bin:$PATH
}

# Whether there is a Python that can make environments; if not, $1 is what goes untested.
has_python() {
  if ! command -v python3 >/dev/null; then
    absent python3 "$1"
    return 1
  elif ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    absent python3-venv "$1"
    return 1
  fi
}

# Makes the environment $1 with the packages of the requirements file $2, and sets `python` to its interpreter.
# Finished only once the stamp is in it: an install that was broken off is begun anew.
setup_python() {
  local venv=$cache/$1-$(fingerprint "$2" <(python3 --version))
  if [[ ! -f $venv/installed ]]; then
    say "Python packages of $1 …"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$2"
    touch "$venv/installed"
    say "Python packages of $1: done"
  fi
  python=$venv/bin/python
}
