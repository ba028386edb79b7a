# Settings shared by the Makefile and .ci/run: one build cache outside the tree, and mold where it is installed.
# Sourced, never run.
export MILLSTREAM_CACHE="${MILLSTREAM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/millstream}"
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$MILLSTREAM_CACHE/target}"
export CARGO_INCREMENTAL="${CARGO_INCREMENTAL:-1}"
if command -v mold >/dev/null 2>&1; then
  export RUSTFLAGS="${RUSTFLAGS:--C link-arg=-fuse-ld=mold}"
fi
