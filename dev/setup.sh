#!/usr/bin/env bash
# Installs the system packages that Millstream is built and tested with, and only those that are missing.
#
#   dev/setup.sh build     what `make demo`, `make build` and `make check` need
#   dev/setup.sh test      that, and what the tests need: Java and Maven for Apache Kafka, PostgreSQL to compare with, Go for
#                          an S3 server; with Python and Node.js also for the clients of these languages
#   dev/setup.sh clients   the same
#
# Debian and Ubuntu. As root or with sudo it installs; otherwise it names what is missing and exits 1.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
level="${1:-test}"
case "$level" in build | test | clients) ;; *) echo "usage: dev/setup.sh [build | test | clients]" >&2; exit 2 ;; esac

have() { command -v "$1" >/dev/null 2>&1; }
installed() { [ "$(dpkg-query -W -f '${db:Status-Abbrev}' "$1" 2>/dev/null | cut -c1-2)" = ii ]; }
have_java() {
  local java="${JAVA_HOME:+$JAVA_HOME/bin/}java"
  have "$java" || java=java
  have "$java" && [ "$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)" -ge 17 ]
}
# To run a file of Java's source.
have_compiler() { have_java && { "${JAVA_HOME:+$JAVA_HOME/bin/}java" --list-modules 2>/dev/null || java --list-modules; } | grep -q '^jdk.compiler'; }
have_python() { have python3 && python3 -c 'import ensurepip, venv'; }
have_postgres() { have initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

missing=()
# need PACKAGE CHECK...: asks for PACKAGE unless the check succeeds (what came by another road is not installed again).
need() {
  local package="$1"
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}

# The one list of system packages.
need gcc have gcc
need g++ have g++
need make have make
need cmake have cmake
need pkg-config have pkg-config
need clang have clang
need mold have mold
need git have git
need libclang-dev installed libclang-dev
need libssl-dev installed libssl-dev
need libcurl4-openssl-dev installed libcurl4-openssl-dev
need zlib1g-dev installed zlib1g-dev
need postgresql-client have psql
if [ "$level" != build ]; then
  need java have_compiler
  need maven have mvn
  need postgresql have_postgres
  need golang-go have go
  need nodejs have node
  need npm have npm
  need python3-venv have_python
fi

if [ ${#missing[@]} -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if have sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
      as_root=(sudo)
    else
      echo "setup: missing system packages: ${missing[*]//#java/openjdk-17-jdk-headless (or any JDK from 17 on)}" >&2
      echo "setup: install them with your package manager, or run this as root or with sudo" >&2
      exit 1
    fi
  fi
  have apt-get || { echo "setup: missing: ${missing[*]}; there is no apt-get here to install them with" >&2; exit 1; }
  echo "setup: installing ${missing[*]}" >&2
  "${as_root[@]}" apt-get update -qq </dev/null >&2
  packages=()
  for package in "${missing[@]}"; do
    if [ "$package" = java ]; then
      # Which Java releases a distribution carries differs; Kafka 4 wants 17 or later.
      for release in 17 21 25; do
        if apt-cache show "openjdk-$release-jdk-headless" >/dev/null 2>&1; then package="openjdk-$release-jdk-headless"; break; fi
      done
    fi
    packages+=("$package")
  done
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" </dev/null >&2
fi

# The Rust toolchain is the user's own: say clearly when it is absent or too old.
wanted="$(sed -n 's/^rust-version *= *"\(.*\)"/\1/p' "$here/../Cargo.toml" | head -n 1)"
if ! have cargo; then
  echo "setup: cargo is missing: install Rust $wanted or later (https://rustup.rs)" >&2
  exit 1
fi
found="$(cargo --version | cut -d' ' -f2)"
if [ "$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)" != "$wanted" ]; then
  echo "setup: cargo $found is too old: Millstream needs Rust $wanted or later (rustup update)" >&2
  exit 1
fi
if [ "$level" != build ] || [ "${MILLSTREAM_CHECK:-}" = 1 ]; then
  for component in fmt clippy; do
    have "cargo-$component" || { echo "setup: cargo $component is missing (rustup component add rustfmt clippy)" >&2; exit 1; }
  done
fi
