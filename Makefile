# Bare "make" prints the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help build run demo test conformance screenshots bench lint image push deploy undeploy clean

VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
REVISION     = $(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null)
STATICCHECK := .tools/staticcheck-v0.8.2
GOBUILD     := CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)'

help: ## print this
	@sed -n 's/^\([a-z]*\): .*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/bastion and bin/bastiond
	$(GOBUILD) -o bin/bastion ./cmd/bastion
	$(GOBUILD) -o bin/bastiond ./cmd/bastiond

run: ## build and start local mode; flags go into ARGS='--launch-delay 10s'
	@$(GOBUILD) -o bin/bastion ./cmd/bastion >&2 # the first line of standard output is the URL
	@exec bin/bastion local $(ARGS)

demo: build ## play the whole story against a local mode of its own
	@scripts/demo

test: ## run all tests, with the race detector
	go test -race -count=1 -timeout 5m $$(go list ./... | grep -v /internal/test/cloudtest)
	@# The fault tests print how many cases they ran, which go test shows with -v only.
	@set -o pipefail; go test -race -count=1 -timeout 5m -v ./internal/test/cloudtest | grep --line-buffered -Ev '^ *(===|--- PASS)'

conformance: ## install the referees and run everything that they judge
	scripts/emulators
	scripts/conformance

screenshots: ## take a picture of every state of Slack's pages, in every look, into .screenshots
	scripts/emulators chromium
	rm -rf .screenshots && mkdir .screenshots
	SCREENSHOTS=$(CURDIR)/.screenshots go test -tags conformance -count=1 -timeout 10m -run TestEveryStateInABrowser ./internal/slack

bench: ## print how long a bastion takes to be ready, and the first answer to a command in Slack
	go test -run '^$$' -bench BenchmarkReady -benchtime 1x ./internal/localmode
	scripts/emulators
	go test -tags conformance -run '^$$' -bench BenchmarkFirstAnswer -benchtime 300x -timeout 20m ./internal/test/system

lint: $(STATICCHECK) ## check the format, run vet and staticcheck
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not as gofmt has it: $$unformatted"; exit 1; }
	go vet -tags conformance ./...
	$(STATICCHECK) -tags conformance ./...

# The version is in the file's name, so that a new one is installed.
$(STATICCHECK):
	GOBIN=$(CURDIR)/.tools go install honnef.co/go/tools/cmd/staticcheck@$(patsubst .tools/staticcheck-%,%,$@)
	mv .tools/staticcheck $@

image: ## build bastiond's image for arm64 and amd64 into .image, without Docker
	@$(GOBUILD) -o bin/operator ./cmd/operator
	@bin/operator image --revision '$(REVISION)'

push: ## build the image and push it: make push REPOSITORY=HOST/NAME
	@test -n '$(REPOSITORY)' || { echo 'Say where to: make push REPOSITORY=111122223333.dkr.ecr.eu-west-1.amazonaws.com/NAME'; exit 2; }
	@$(MAKE) --no-print-directory image
	@bin/operator push '$(REPOSITORY)'

# A file of one's own, which git ignores, may hold what deploy and undeploy are told:
# STACK, VPC, SUBNETS, REGION and PARAMETERS.
-include deploy.mk
REGION     ?=
PARAMETERS ?=
set         = $(filter-out 0 false no,$(1))

deploy: ## deploy to AWS: make deploy STACK=bastion VPC=vpc-… SUBNETS=subnet-…,subnet-… (DRY_RUN=1)
	@$(GOBUILD) -o bin/operator ./cmd/operator
	@bin/operator deploy --stack '$(STACK)' --region '$(REGION)' --vpc '$(VPC)' --subnets '$(SUBNETS)' \
		--parameters '$(PARAMETERS)' --revision '$(REVISION)' $(if $(call set,$(DRY_RUN)),--dry-run)

undeploy: ## take it away: make undeploy STACK=bastion (DRY_RUN=1; PURGE=1 also deletes the tables)
	@$(GOBUILD) -o bin/operator ./cmd/operator
	@bin/operator undeploy --stack '$(STACK)' --region '$(REGION)' $(if $(call set,$(DRY_RUN)),--dry-run) $(if $(call set,$(PURGE)),--purge)

clean: ## remove what the other targets made
	rm -rf bin .tools .image .aws-sam .screenshots

include functions/build.mk
