# rbtrace: `make help` lists the targets.
export CGO_ENABLED = 0
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  = -s -w -X main.version=$(VERSION)

# The compiler of the committed objects: another version makes other bytes.
export BPF2GO_CC     = clang-19
export BPF2GO_STRIP  = llvm-strip-19
export BPF2GO_CFLAGS = -O2 -mcpu=v3 -Wall -Werror

.PHONY: build
build: ## Build ./rbtrace, one static binary
	go build -trimpath -ldflags '$(LDFLAGS)' -o rbtrace ./cmd/rbtrace

.PHONY: generate
generate: ## Rebuild the BPF objects, their Go, and docs/commands (needs clang-19, llvm-19, libbpf-dev)
	go generate ./internal/...

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' Makefile | expand -t 16
