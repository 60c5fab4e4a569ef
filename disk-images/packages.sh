# shellcheck shell=bash
# Fetching Debian packages without touching the system's own package state.
#
# Sourced by the build scripts beside it. Needs apt-get (with its lists readable) and dpkg-deb;
# needs no root: every architecture gets a private apt configuration under the cache, with its own
# state and an empty status file, so that i386 packages can be fetched on an amd64 machine that
# knows nothing of i386.
#
#   guests_dir                     prints the directory that holds all built guests
#   private_apt ARCH DIR           makes DIR a private apt state for ARCH, with package lists
#   real_package ARCH DIR META     prints the package that the meta package META depends on first
#   fetch_package ARCH DIR PKG TO  downloads PKG and unpacks it into TO
#   pack_initrd ROOT OUT           packs the tree ROOT as a reproducible gzipped initramfs

guests_dir() {
  echo "${FTEMU_GUESTS:-$HOME/.cache/ftemu-guests}"
}

# Runs an apt tool with the private configuration: apt_in DIR TOOL ARGS...
apt_in() {
  local dir=$1 tool=$2
  shift 2
  APT_CONFIG="$dir/apt.conf" "$tool" "$@"
}

# Writes the sources of Debian 12 into the directory DIR: this machine's own where it runs Debian
# 12, and nothing of any other vendor.
debian_sources() {
  local dir=$1 source mirror=${DEBIAN_MIRROR:-http://deb.debian.org}
  mkdir -p "$dir"
  if grep -qs '^VERSION_CODENAME=bookworm$' /etc/os-release; then
    for source in /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/debian.list \
      /etc/apt/sources.list; do
      if [ -s "$source" ]; then
        cp "$source" "$dir/$(basename "$source" | sed 's/^sources.list$/main.list/')"
      fi
    done
  fi
  if [ -z "$(ls -A "$dir")" ]; then
    local key=/usr/share/keyrings/debian-archive-keyring.gpg
    cat >"$dir/debian.list" <<LIST
deb [signed-by=$key] $mirror/debian bookworm main
deb [signed-by=$key] $mirror/debian bookworm-updates main
deb [signed-by=$key] $mirror/debian-security bookworm-security main
LIST
  fi
}

private_apt() {
  local arch=$1 dir=$2
  mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial" "$dir/lists.d" \
    "$dir/conf.d"
  : >"$dir/status"
  debian_sources "$dir/lists.d"
  cat >"$dir/apt.conf" <<CONF
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "";
APT::Get::Assume-Yes "true";
Dir::State "$dir/state";
Dir::State::status "$dir/status";
Dir::Cache "$dir/cache";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$dir/lists.d";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "$dir/conf.d";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
  # A mirror in mid-update may lack one suite; the others usually hold what is needed, and a
  # download that cannot be had fails on its own.
  apt_in "$dir" apt-get update -q >"$dir/update.log" 2>&1 ||
    sed -n 's/^E: /warning: /p' "$dir/update.log" >&2
}

real_package() {
  local dir=$2 meta=$3
  apt_in "$dir" apt-cache depends "$meta" | awk '/^ *Depends: / && !seen++ { print $2 }'
}

fetch_package() {
  local arch=$1 dir=$2 package=$3 to=$4
  local work
  work=$(mktemp -d)
  if ! (cd "$work" && apt_in "$dir" apt-get download -q "$package:$arch" >log 2>&1); then
    cat "$work/log" >&2
    rm -rf "$work"
    return 1
  fi
  mkdir -p "$to"
  dpkg-deb -x "$work"/*.deb "$to"
  rm -rf "$work"
}

pack_initrd() {
  local root=$1 out=$2
  find "$root" -exec touch -h -d @0 {} +
  (cd "$root" && find . -mindepth 1 | LC_ALL=C sort |
    cpio -o -H newc -R 0:0 --reproducible --quiet) | gzip -9n >"$out.part"
  mv "$out.part" "$out"
}
