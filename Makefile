# Tipstaff: `make` lists the targets. Everything a target needs, it builds or installs itself.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOLANGCI_VERSION := v2.15.0
CONTROLLER_GEN_VERSION := v0.23.0
UNIT = $(shell go list ./... | grep -vE '/e2e(/bindings|/pods)?$$')

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: build tools ## run the whole story on a real control plane, then stay up until Ctrl-C
	@bin/devenv demo

dev: build tools ## leave the whole environment running; kubeconfigs and URLs under .dev/
	@exec bin/devenv dev

test: build tools helm ## every test, end to end ones included
	@tools/prerequisites.sh --tests
	@echo "==> unit tests (with the race detector)"
	go test -race -timeout 30m $(UNIT)
	@echo "==> end-to-end tests on a real control plane"
	go test -count=1 -p 1 -timeout 20m ./e2e ./e2e/bindings
	@if why=$$(tools/node.sh --can); then $(MAKE) --no-print-directory test-pods; else echo "==> NOT RUN: the tests that need pods: $$why"; fi

test-pods: build tools node ## the tests that run pods on a kubelet; root only
	@echo "==> end-to-end tests with pods that run"
	go test -count=1 -timeout 10m ./e2e/pods

check: lib generated lint ## before a commit: format, vet, lint, generated code current, unit tests with -race
	go vet ./...
	go test -race -timeout 30m $(UNIT)

bench: prerequisites ## measure the hot paths; the table goes to bench/results/
	@bench/run

build: prerequisites ## bin/tipstaff (and the kubectl plugin, and bin/devenv)
	@echo "==> building tipstaff (the first time this compiles its dependencies: a few minutes)"
	@mkdir -p bin
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/tipstaff ./cmd/tipstaff
	CGO_ENABLED=0 go build -trimpath -o bin/devenv ./e2e/cmd/devenv
	@ln -sf tipstaff bin/kubectl-tipstaff

tools: lib ## the real parts: kube-apiserver, etcd, kubectl… into bin/
	@tools/build.sh

helm: prerequisites ## helm, which the end-to-end tests run, into bin/
	@tools/helm/build.sh

node: prerequisites ## a kubelet into bin/, and containerd by apt: what runs pods, for the end-to-end tests
	@tools/node.sh

lib: prerequisites ## the ClickHouse engine, by npm
	@tools/chdb/install.sh

generate: bin/controller-gen ## CRDs and deepcopy from api/
	bin/controller-gen object paths=./api/...
	bin/controller-gen crd paths=./api/... output:crd:dir=manifests/crds

generated: generate ## fail when generated code is not current
	@git diff --exit-code --stat -- api manifests/crds || { echo "generated code is not current: commit what 'make generate' made"; exit 1; }

lint: bin/golangci-lint ## gofmt and golangci-lint
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	bin/golangci-lint run

clean: ## remove what was built (bin, .dev); downloads stay in Go's and npm's caches
	rm -rf bin .dev tools/chdb/node_modules

prerequisites:
	@tools/prerequisites.sh

bin/controller-gen: Makefile
	@echo "==> building controller-gen $(CONTROLLER_GEN_VERSION)"
	GOBIN=$(CURDIR)/bin go install sigs.k8s.io/controller-tools/cmd/controller-gen@$(CONTROLLER_GEN_VERSION)
	@touch $@

bin/golangci-lint: Makefile
	@echo "==> building golangci-lint $(GOLANGCI_VERSION) from source (a few minutes, once)"
	GOBIN=$(CURDIR)/bin CGO_ENABLED=0 go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	@touch $@

.PHONY: help demo dev test check bench test-pods build tools helm node lib generate generated lint clean prerequisites
