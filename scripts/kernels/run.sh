#!/usr/bin/env bash
# Runs the tests that need BPF on several Debian kernels, each booted in QEMU, and reports per kernel and per test.
#
# A test that needs BPF is one in a file *_bpf_test.go; the other tests of its package are left out. In the machine it
# finds a root that holds little more than itself: its package's testdata, /bin/rbtrace, and what init/main.go mounts.
# Which of these tests not every machine runs, and why, is in the file spared.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
readonly here root
readonly LABELS=(5.10 newest 6.1 6.12) # those with the most tests first
readonly ENDS=' 5.10 newest '            # the oldest and the newest
readonly BUDGET=720                    # seconds for one round of all of them, on two processors

cache=${RBTRACE_KERNEL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rbtrace/kernels}
test_timeout=${RBTRACE_TEST_TIMEOUT:-300}
vm_timeout=${RBTRACE_KERNEL_TIMEOUT:-1800}
jobs=${RBTRACE_KERNEL_JOBS:-2}
accel=${RBTRACE_KERNEL_ACCEL:-tcg,thread=single}
logs=${RBTRACE_KERNEL_LOGS:-}
work= # the temporary directory: the initramfs and what it is made from

usage() {
	cat <<-USAGE
		usage: run.sh [--run REGEXP] [--repeat N] [--load] [LABEL...]

		Labels: ${LABELS[*]} (default: all of them). Kernels that are not cached are fetched, see fetch.sh.
		  --run REGEXP  run only the tests that match, as go test -run does, on all machines (spared or not)
		  --repeat N    do so N times, each in a machine of its own, and count how often each test fails
		  --load        keep all processors of this host busy meanwhile

		Environment:
		  RBTRACE_TEST_TIMEOUT    seconds for the tests of one package (now $test_timeout)
		  RBTRACE_KERNEL_TIMEOUT  seconds for all tests on one kernel, and its boot (now $vm_timeout)
		  RBTRACE_KERNEL_JOBS     machines that run at a time (now $jobs)
		  RBTRACE_KERNEL_APPEND   more kernel parameters, such as lockdown=integrity
		  RBTRACE_KERNEL_ACCEL    QEMU's accelerator (now $accel); kvm is faster where it works
		  RBTRACE_KERNEL_LOGS     directory for the logs (default: a new one below \${TMPDIR:-/tmp})
		  RBTRACE_KERNEL_CACHE    the kernels (now $cache)

		In a machine the tests find these variables besides RBTRACE_REQUIRE_BPF=1:
		  RBTRACE_TEST_KERNEL     the label
		  RBTRACE_TEST_DISK       an empty block device that nobody uses; what is written to it is gone
		  RBTRACE_TEST_MODULE     a kernel module to load and unload
	USAGE
}

die() {
	printf 'run.sh: %s\n' "$*" >&2
	exit 1
}

# require_tools: names all that is missing at once.
require_tools() {
	local missing=()
	command -v go >/dev/null || die 'go not found: see https://go.dev/doc/install'
	command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
	command -v cpio >/dev/null || missing+=(cpio)
	((${#missing[@]} == 0)) || die "missing packages; install them with: apt-get install ${missing[*]}"
}

# The machines are amd64 and have no C library.
go_static() {
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go "$@"
}

# unit_tests DIR: a pattern of the tests of a package that are in no *_bpf_test.go file. These are skipped, rather than
# the others selected, for two reasons: -run stays free for the user, and a test that this search misses is run.
unit_tests() {
	find "$1" -maxdepth 1 -name '*_test.go' ! -name '*_bpf_test.go' -exec \
		sed -nE 's/^func ((Test|Example|Fuzz)[A-Za-z0-9_]*)\(.*/\1/p' {} + | paste -sd '|'
}

# check_spared: what the list says must be true of some test.
check_spared() {
	local dir test where reason
	while read -r dir test where reason; do
		[[ $where == none || $where == ends ]] || die "spared: $dir $test: machines are none or ends, not $where"
		[[ -n $reason ]] || die "spared: $dir $test: no reason"
		grep -q "^func $test(" "$dir"/*_bpf_test.go || die "spared: $dir has no $test"
	done < <(grep '^[^#]' "$here/spared")
}

# spared_tests DIR LABEL: a pattern of the tests of a package that the machine with that kernel does not run.
spared_tests() {
	local dir test where
	while read -r dir test where _; do
		if [[ $dir == "$1" && ($where == none || $ENDS != *" $2 "*) ]]; then
			printf '%s\n' "$test"
		fi
	done < <(grep '^[^#]' "$here/spared") | paste -sd '|'
}

# build_initramfs FILE REGEXP LABEL...: builds all test binaries, and the one initramfs of all kernels.
build_initramfs() {
	local file=$1 run=$2 fs=$work/root path dir tests label release units
	shift 2
	mkdir -p "$fs"/{bin,boot,dev,etc,root,tests}
	echo 'root:x:0:0:root:/root:/bin/sh' >"$fs/etc/passwd"
	echo 'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >>"$fs/etc/passwd"
	printf 'root:x:0:\nnogroup:x:65534:\n' >"$fs/etc/group"
	printf '127.0.0.1 localhost\n::1 localhost\n' >"$fs/etc/hosts"

	go_static build -ldflags='-s -w' -o "$fs/init" ./scripts/kernels/init
	if [[ -d cmd/rbtrace ]]; then
		go_static build -o "$fs/bin/rbtrace" ./cmd/rbtrace
	fi

	check_spared
	go_static list -f '{{.ImportPath}}{{"\t"}}{{.Dir}}{{"\t"}}{{join .TestGoFiles " "}} {{join .XTestGoFiles " "}}' ./... \
		>"$work/packages"
	while IFS=$'\t' read -r path dir tests; do
		[[ "$tests " == *_bpf_test.go\ * ]] || continue
		units=$(unit_tests "$dir")
		dir=${dir#"$root"}
		dir=${dir#/}
		dir=${dir:-.}
		mkdir -p "$fs/tests/$dir"
		# Without DWARF (-w) a binary is a third smaller. The symbol table stays, for uprobes.
		go_static test -c -ldflags=-w -o "$fs/tests/$dir/pkg.test" "$path"
		if [[ -d $dir/testdata ]]; then
			cp -R "$dir/testdata" "$fs/tests/$dir/"
		fi
		for label in "$@"; do
			local args=(-test.v=test2json -test.paniconexit0 "-test.timeout=${test_timeout}s")
			if [[ -n $run ]]; then
				args+=("-test.run=$run" "-test.skip=^($units)\$")
			else
				args+=("-test.skip=^($units|$(spared_tests "$dir" "$label"))\$") # of no tests: no name
			fi
			(
				IFS=$'\t'
				printf '%s\n' "$path"$'\t'"$dir"$'\t'"${args[*]}"
			) >>"$fs/tests/manifest.$label"
		done
	done <"$work/packages"
	[[ -s $fs/tests/manifest.$1 ]] || die 'no package has a file *_bpf_test.go: there is nothing to run'

	for label in "$@"; do
		read -r release _ <"$cache/$label/version"
		mkdir -p "$fs/lib/modules/$release"
		cp "$cache/$label/config" "$fs/boot/config-$release"
		cp "$cache/$label/dummy.ko" "$fs/lib/modules/$release/"
	done
	# Not compressed: to unpack it in an emulator takes longer than to read it.
	(cd "$fs" && find . -print0 | cpio --quiet --null --create --format=newc --owner=0:0 >"$file")
}

# boot LABEL INITRAMFS DIR: runs one machine to its end. The report says how that went. Where the kernel or the emulator dies
# before any test has begun, no test is to blame, and it gets one more try; what a test did is never tried again.
boot() {
	local label=$1 initramfs=$2 dir=$3
	machine "$@"
	if ! grep -q '^#begin ' "$dir/tests.log" 2>/dev/null; then
		mkdir "$dir/first"
		find "$dir" -maxdepth 1 -type f -exec mv {} "$dir/first/" \;
		: >"$dir/again"
		printf '%s: no test began; booting once more\n' "$label" >&2
		machine "$@"
	fi
}

machine() {
	local label=$1 initramfs=$2 dir=$3 status=0 start=$SECONDS pid
	# Emulated processors have two traits that end now and then in a kernel panic or a hang for which no test is to blame:
	# - With a host thread for each (thread=multi, the default), one can go on running code that the other has patched,
	#   and attaching a probe patches code. One thread for both is also faster, as long as other machines use the rest.
	# - QEMU up to 7.2 leaves garbage in the flags after cmpxchg16b, with which Linux 6.12 allocates its memory. A kernel
	#   that does not find the instruction does without.
	local machine=(
		-accel "$accel" -cpu 'max,cx16=off' -smp 2 -m 2G
		-nodefaults -display none -no-reboot
		-serial "file:$dir/console.log" -serial "file:$dir/tests.log"
		# NVMe, for all of Debian's cloud kernels have its driver built in; the others are modules.
		-drive 'if=none,id=disk,format=raw,file.driver=null-co,file.size=64M,file.read-zeroes=on'
		-device 'nvme,serial=rbtrace,drive=disk'
		-kernel "$cache/$label/vmlinuz" -initrd "$initramfs"
		# A test that makes the kernel oops has failed, even if the machine could go on.
		-append "console=ttyS0 loglevel=5 panic=-1 oops=panic rbtrace.label=$label ${RBTRACE_KERNEL_APPEND:-}"
	)
	timeout --kill-after=10 "$vm_timeout" qemu-system-x86_64 "${machine[@]}" >"$dir/qemu.log" 2>&1 </dev/null &
	pid=$!
	trap 'kill "$pid"; exit 143' INT TERM # timeout(1) is in a process group of its own, which Ctrl-C does not reach
	wait "$pid" || status=$?
	echo "$status" >"$dir/status"
	printf '%s: machine ended after %ds\n' "$label" "$((SECONDS - start))" >&2
}

# busy: keeps a processor busy until it is killed.
busy() {
	while :; do :; done
}

cleanup() {
	local pids
	mapfile -t pids < <(jobs -p)
	((${#pids[@]} == 0)) || kill "${pids[@]}" 2>/dev/null || true
	wait
	rm -rf "$work"
}

main() {
	local run='' labels=() dirs=() label repeat=1 load='' loads=() machines=() round started took
	while (($# > 0)); do
		case $1 in
		--run)
			(($# > 1)) || die '--run needs a regular expression'
			run=$2
			shift
			;;
		--run=*) run=${1#--run=} ;;
		--repeat)
			(($# > 1)) || die '--repeat needs a number'
			repeat=$2
			shift
			;;
		--repeat=*) repeat=${1#--repeat=} ;;
		--load) load=1 ;;
		-h | --help)
			usage
			return
			;;
		-*)
			usage >&2
			exit 2
			;;
		*) labels+=("$1") ;;
		esac
		shift
	done
	[[ $repeat =~ ^[1-9][0-9]*$ ]] || die "--repeat $repeat: want a number above 0"
	((${#labels[@]} > 0)) || labels=("${LABELS[@]}")

	require_tools
	"$here/fetch.sh" "${labels[@]}" >&2

	work=$(mktemp -d "${TMPDIR:-/tmp}/rbtrace-initramfs.XXXXXX")
	trap cleanup EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	if [[ -z $logs ]]; then
		logs=$(mktemp -d "${TMPDIR:-/tmp}/rbtrace-kernels.XXXXXX")
	fi
	mkdir -p "$logs"
	logs=$(cd "$logs" && pwd)
	for ((round = 1; round <= repeat; round++)); do
		for label in "${labels[@]}"; do
			local dir=$logs/$label
			((repeat == 1)) || dir+=+$round
			machines+=("$label")
			dirs+=("$dir")
			rm -rf "$dir"
			mkdir "$dir"
		done
	done

	printf 'building the tests\n' >&2
	cd "$root"
	go build -o "$work/report" ./scripts/kernels/report
	build_initramfs "$work/initramfs" "$run" "${labels[@]}"
	cp "$work/root/tests/manifest.${labels[0]}" "$logs/manifest" # all have the same packages
	printf 'built after %ds: %d packages, initramfs of %d MiB; logs: %s\n' "$SECONDS" "$(wc -l <"$logs/manifest")" \
		"$(($(stat -c %s "$work/initramfs") >> 20))" "$logs" >&2

	if [[ -n $load ]]; then
		for ((round = $(nproc); round > 0; round--)); do
			busy &
			loads+=($!)
		done
	fi
	started=$SECONDS
	for round in "${!machines[@]}"; do
		while (($(jobs -rp | wc -l) - ${#loads[@]} >= jobs)); do
			wait -n || true # no matter which one ended, or whether one was left to wait for
		done
		boot "${machines[round]}" "$work/initramfs" "${dirs[round]}" &
	done
	if [[ -n $load ]]; then
		while (($(jobs -rp | wc -l) > ${#loads[@]})); do
			wait -n || true
		done
		kill "${loads[@]}"
	fi
	wait
	took=$((SECONDS - started))
	printf 'all machines took %d s\n' "$took" >&2
	if [[ -z $load && -z $run ]] && ((repeat == 1 && took > BUDGET)); then
		printf 'WARNING: the budget of all machines is %d s\n' "$BUDGET" >&2
	fi
	"$work/report" "$logs/manifest" "${dirs[@]}"
}

main "$@"
