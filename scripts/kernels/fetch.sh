#!/usr/bin/env bash
# Fetches the Debian kernels that the BPF tests run on, into a cache:
#
#   CACHE/LABEL/vmlinuz    the kernel
#   CACHE/LABEL/config     its build configuration
#   CACHE/LABEL/dummy.ko   its "dummy" network module, for tests that need a module to load
#   CACHE/LABEL/version    one line: its release (as in uname -r) and the version of its package
#
# A label that is in the cache costs no network access. See usage below.
set -euo pipefail

readonly KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg
readonly META=linux-image-cloud-amd64
readonly LABELS=(5.10 6.1 6.12 newest)

cache=${RBTRACE_KERNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rbtrace/kernels}
work= # the temporary directory of the fetch under way

usage() {
	cat <<-USAGE
		usage: fetch.sh [--refresh] [LABEL...]

		Labels: ${LABELS[*]} (default: all of them).
		  --refresh  ask the mirror again, and replace the kernels it has newer packages for

		Environment:
		  RBTRACE_KERNEL_CACHE   the cache (now $cache)
		  RBTRACE_DEBIAN_MIRROR  URI of a Debian mirror, for a machine whose own apt sources name none
	USAGE
}

die() {
	printf 'fetch.sh: %s\n' "$*" >&2
	exit 1
}

# suite_of LABEL: the Debian suite whose newest kernel the label stands for.
suite_of() {
	case $1 in
	5.10) echo bullseye ;;
	6.1) echo bookworm ;;
	6.12) echo trixie ;;
	newest) echo sid ;;
	*) die "unknown label '$1'; the labels are: ${LABELS[*]}" ;;
	esac
}

# require_tools: names all that is missing at once.
require_tools() {
	local missing=()
	command -v apt-get >/dev/null || die 'apt-get not found: fetching kernels needs Debian or a distribution built on it'
	command -v dpkg-deb >/dev/null || missing+=(dpkg)
	command -v flock >/dev/null || missing+=(util-linux)
	command -v xz >/dev/null || missing+=(xz-utils)
	[[ -r $KEYRING ]] || missing+=(debian-archive-keyring)
	((${#missing[@]} == 0)) || die "missing packages; install them with: apt-get install ${missing[*]}"
}

# mirrors: the URIs that may be a Debian archive, from the apt sources of this machine: those known to be one, or, where
# the machine has downloaded no lists yet (as in a fresh container), all. Not the security archive, which has other suites.
mirrors() {
	local uris
	if [[ -n ${RBTRACE_DEBIAN_MIRROR-} ]]; then
		echo "${RBTRACE_DEBIAN_MIRROR%/}/"
		return
	fi
	uris=$(index_targets 'Origin: Debian')
	[[ -n $uris ]] || uris=$(index_targets --no-release-info)
	[[ -z $uris ]] || echo "$uris"
}

# index_targets OPTION-OR-FILTER: the URIs of the repositories that the option or the filter leaves, each once.
index_targets() {
	# shellcheck disable=SC2016 # the placeholders are apt's
	apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Identifier: Packages' "$1" |
		awk '$2 !~ /-security$|\/updates$/ && !seen[$1]++ { print $1 }'
}

# write_apt_configuration SUITE MIRROR: an apt of its own under $work. It keeps the machine's settings of how to reach the
# network (proxy, credentials, certificates) and nothing else: neither its sources, pins and package lists, nor the hooks
# that a private update must not trigger.
write_apt_configuration() {
	local suite=$1 mirror=$2
	rm -rf "$work/apt"
	mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,state}
	: >"$work/apt/state/status"
	cat >"$work/apt/debian.sources" <<-SOURCES
		Types: deb
		URIs: $mirror
		Suites: $suite
		Components: main
		Architectures: amd64
		Signed-By: $KEYRING
	SOURCES
	# Check-Valid-Until: only sid's Release file expires, a week after it was made, so a mirror that is a snapshot (which
	# reproducible machines use) could never serve it. Expiry guards against a mirror that holds back security updates;
	# that does not matter to a kernel that boots only inside an emulator, to run our tests. Signatures are checked always.
	cat >"$work/apt/apt.conf" <<-CONF
		#clear APT::Architectures;
		#clear APT::Update::Pre-Invoke;
		#clear APT::Update::Post-Invoke;
		#clear APT::Update::Post-Invoke-Success;
		APT::Architecture "amd64";
		APT::Architectures "amd64";
		APT::Default-Release "";
		APT::Update::Error-Mode "any";
		APT::Get::AllowUnauthenticated "false";
		Acquire::AllowInsecureRepositories "false";
		Acquire::AllowWeakRepositories "false";
		Acquire::Check-Valid-Until "false";
		Acquire::Languages "none";
		Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
		Dir::State "$work/apt/state";
		Dir::State::Lists "$work/apt/lists";
		Dir::State::status "$work/apt/state/status";
		Dir::Cache "$work/apt/cache";
		Dir::Etc::sourcelist "$work/apt/debian.sources";
		Dir::Etc::sourceparts "/dev/null";
		Dir::Etc::preferences "/dev/null";
		Dir::Etc::preferencesparts "/dev/null";
	CONF
}

# update SUITE: downloads the suite's package list from the first mirror that carries it.
update() {
	local suite=$1 mirror tried=()
	while read -r mirror; do
		write_apt_configuration "$suite" "$mirror"
		if apt-get -c "$work/apt/apt.conf" -qq update >"$work/update.log" 2>&1; then
			return
		fi
		tried+=("$mirror")
		sed 's/^/fetch.sh: /' "$work/update.log" >&2
	done < <(mirrors)
	((${#tried[@]} > 0)) ||
		die "the apt sources of this machine name no Debian mirror; set RBTRACE_DEBIAN_MIRROR to the URI of one"
	die "no verified package list of Debian $suite at ${tried[*]}. Where it has no such suite, set RBTRACE_DEBIAN_MIRROR" \
		"to the URI of a mirror that has; where its key is unknown, upgrade the package debian-archive-keyring"
}

# depends PACKAGE: the names of the packages that it depends on.
depends() {
	apt-cache -c "$work/apt/apt.conf" show --no-all-versions "$1" |
		sed -n 's/^Depends: //p' | tr ',' '\n' | awk '{ print $1 }'
}

# unpacked NAME: the path of the one unpacked file that is called so.
unpacked() {
	local found
	mapfile -t found < <(find "$work/root" -type f -name "$1")
	((${#found[@]} == 1)) || die "expected one file $1 in the packages ${packages[*]}, found ${#found[@]}"
	echo "${found[0]}"
}

# fetch LABEL: brings the label into the cache, or leaves it there if it is the mirror's newest already.
fetch() {
	local label=$1 suite image release version part module
	suite=$(suite_of "$label")

	# apt downloads as its own user, who must be able to get there: not so below the home directory of root.
	work=$(mktemp -d "${TMPDIR:-/tmp}/rbtrace-fetch.XXXXXX")
	mkdir "$work/deb" "$work/root"
	chmod 755 "$work"
	if ((EUID == 0)) && id _apt >/dev/null 2>&1; then
		chown _apt "$work/deb"
	fi

	printf 'fetching the newest kernel of Debian %s\n' "$suite" >&2
	update "$suite"
	image=$(depends "$META" | grep -E '^linux-image-[0-9]') || die "$META in $suite names no kernel package"
	release=${image#linux-image-}
	if [[ $label != newest && $release != "$label".* ]]; then
		die "Debian $suite has the kernel $release, which is no $label"
	fi
	version=$(apt-cache -c "$work/apt/apt.conf" show --no-all-versions "$image" | sed -n 's/^Version: //p')
	if [[ -f $cache/$label/version && $(<"$cache/$label/version") == "$release $version" ]]; then
		rm -rf "$work"
		return
	fi

	# Up to 6.x the image package holds everything. From 7.x on it is empty, and depends on these parts of it.
	packages=("$image")
	while read -r part; do
		case $part in
		linux-binary-"$release" | linux-base-"$release" | linux-modules-"$release") packages+=("$part") ;;
		esac
	done < <(depends "$image")
	(cd "$work/deb" && apt-get -c "$work/apt/apt.conf" -qq download "${packages[@]}")

	for part in "$work"/deb/*.deb; do
		dpkg-deb -x "$part" "$work/root"
	done
	mkdir "$work/new"
	cp "$(unpacked 'vmlinuz*')" "$work/new/vmlinuz"
	cp "$(find "$work/root" -type f \( -path '*/boot/config-*' -o -path '*/modules/*/config' \))" "$work/new/config"
	module=$(unpacked 'dummy.ko*')
	case $module in
	*.xz) xz -dc "$module" >"$work/new/dummy.ko" ;;
	*) cp "$module" "$work/new/dummy.ko" ;;
	esac
	echo "$release $version" >"$work/new/version"

	# The version file comes last, since it is what says that the entry is complete.
	rm -rf "${cache:?}/$label"
	mkdir "$cache/$label"
	mv "$work/new/"{vmlinuz,config,dummy.ko} "$cache/$label/"
	mv "$work/new/version" "$cache/$label/"
	rm -rf "$work"
}

main() {
	local refresh=false labels=() label
	while (($# > 0)); do
		case $1 in
		--refresh) refresh=true ;;
		-h | --help)
			usage
			return
			;;
		-*)
			usage >&2
			exit 2
			;;
		*)
			suite_of "$1" >/dev/null
			labels+=("$1")
			;;
		esac
		shift
	done
	((${#labels[@]} > 0)) || labels=("${LABELS[@]}")

	mkdir -p "$cache"
	trap 'rm -rf "$work"' EXIT
	exec 9>"$cache/lock"
	for label in "${labels[@]}"; do
		if $refresh || [[ ! -f $cache/$label/version ]]; then
			require_tools
			flock 9 # two runs at a time: the second finds the work done
			if $refresh || [[ ! -f $cache/$label/version ]]; then
				fetch "$label"
			fi
			flock -u 9
		fi
		printf '%s: %s (%s)\n' "$label" "$(<"$cache/$label/version")" "$cache/$label/vmlinuz"
	done
}

main "$@"
