# rbtrace: `make help` lists the targets.

# sudo often leaves out where Go's own installation puts it.
export PATH := $(PATH):/usr/local/go/bin
export CGO_ENABLED = 0

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  = -s -w -X main.version=$(VERSION)

# The compiler of the committed objects: another version makes other bytes.
export BPF2GO_CC     = clang-19
export BPF2GO_STRIP  = llvm-strip-19
export BPF2GO_CFLAGS = -O2 -mcpu=v3 -Wall -Werror

BPF = $(wildcard bpf/*.c bpf/include/rbtrace/*.h)

.PHONY: build
build: ## Build ./rbtrace, one static binary
	go build -trimpath -ldflags '$(LDFLAGS)' -o rbtrace ./cmd/rbtrace

.PHONY: demo
demo: build ## See it at work for five seconds (as root)
	scripts/demo.sh

.PHONY: test
test: ## Test; as root the parts that need BPF too (RBTRACE_REQUIRE_BPF=1: no skips)
	scripts/test.sh

.PHONY: test-kernels
test-kernels: ## Test on Debian's 5.10, 6.1, 6.12 and newest kernels in QEMU
	scripts/kernels/run.sh

.PHONY: fuzz
FUZZTIME ?= 30s
fuzz: ## Fuzz each target for FUZZTIME
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: bench
bench: build ## Measure, with other tracers in the same run where they are installed (as root)
	scripts/bench.sh

.PHONY: generate
generate: ## Rebuild the BPF objects and their Go (clang-19, llvm-19, libbpf-dev), and docs/commands
	scripts/generate.sh
	$(MAKE) docs

.PHONY: docs
docs: ## Rebuild docs/commands
	mkdir -p docs/commands
	rm -f docs/commands/*.md
	go run ./cmd/rbtrace docs docs/commands

.PHONY: format
format: ## Format Go and BPF C
	gofmt -w cmd internal scripts
	clang-format-19 -i $(BPF)

.PHONY: lint
lint: ## Check the style of Go, BPF C and shell scripts
	golangci-lint run
	clang-format-19 --dry-run --Werror $(BPF)
	shellcheck .ci/run scripts/*.sh scripts/kernels/*.sh

PREFIX ?= /usr/local
.PHONY: install
install: build ## Install the program, manual pages and completions below PREFIX
	install -D -m 755 rbtrace $(DESTDIR)$(PREFIX)/bin/rbtrace
	mkdir -p $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	./rbtrace docs --format man $(DESTDIR)$(PREFIX)/share/man/man1
	./rbtrace completion bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/rbtrace

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16
