# Bare "make" prints the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.PHONY: help build run demo test conformance soak clients screenshots dashboard bench bench-ssh lint image push deploy undeploy clean

VERSION     := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
REVISION     = $(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null)
STATICCHECK := .tools/staticcheck-v0.8.2
GOBUILD     := CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)'

help: ## print this list
	@sed -n 's/^\([a-z]*\): .*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

build: ## build bin/bastion and bin/bastiond
	$(GOBUILD) -o bin/bastion ./cmd/bastion
	$(GOBUILD) -o bin/bastiond ./cmd/bastiond

run: ## build and start local mode; flags: make run ARGS='--launch-delay 10s'
	@$(GOBUILD) -o bin/bastion ./cmd/bastion >&2 # the first line of standard output is the URL
	@exec bin/bastion local $(ARGS)

demo: ## show the life of a bastion: request, connect, extend, close
	@$(GOBUILD) -o bin/bastion ./cmd/bastion
	@scripts/demo

test: ## run all tests, with the race detector
	@# The fault tests log how many cases ran, so they run with -v, at the same time as the others.
	@# Without the parentheses, wait would return the status of grep if the tests have ended before.
	@set -o pipefail; \
	(go test -race -count=1 -timeout 60m -v ./internal/test/cloudtest | grep --line-buffered -Ev '^ *(===|--- PASS)') & faults=$$!; \
	go test -race -count=1 -timeout 60m $$(go list ./... | grep -v /internal/test/cloudtest); others=$$?; \
	wait $$faults && exit $$others

conformance: ## install emulators and a browser, and run the tests that need them
	scripts/emulators
	scripts/conformance

soak: ## let random people use local mode and check what is left: make soak TIME=10m SEED=7
	SOAK_TIME=$(call quote,$(TIME)) SOAK_SEED=$(call quote,$(SEED)) go test -race -tags conformance -count=1 -timeout 0 -v ./internal/test/soak

clients: ## run other people's SSH clients against bastiond; ARGS=-update writes docs/clients.md
	scripts/emulators ssh-clients
	@set -o pipefail; go test -tags conformance -count=1 -timeout 60m -v ./internal/test/clients $(ARGS) | grep --line-buffered -Ev '^ *(===|--- PASS)'

screenshots: ## save pictures of Slack's pages in .screenshots: each state in light, dark, narrow, forced colors, no script
	scripts/emulators chromium axe
	rm -rf .screenshots && mkdir .screenshots
	SCREENSHOTS=$(CURDIR)/.screenshots go test -tags conformance -count=1 -timeout 60m -run TestEveryStateInBrowser ./internal/slack

dashboard: ## draw docs/dashboard.svg: the dashboard of template.yaml, from the metrics of a simulated day
	DASHBOARD=$(CURDIR)/docs/dashboard.svg go test -tags conformance -count=1 -timeout 60m -run TestDashboardOfASimulatedDay ./internal/lambdamode

bench: ## measure the time until a bastion is ready, and the first reply to a Slack command
	go test -run '^$$' -bench BenchmarkReady -benchtime 1x -timeout 60m ./internal/localmode
	scripts/emulators
	go test -tags conformance -run '^$$' -bench BenchmarkFirstAnswer -benchtime 300x -timeout 60m ./internal/test/system

bench-ssh: ## compare bastiond with OpenSSH's sshd on this machine; needs root; takes about four minutes
	scripts/emulators openssh-server
	go test -tags conformance -run '^$$' -bench BenchmarkBesideSSHD -benchtime 9x -timeout 60m ./cmd/bastiond

lint: $(STATICCHECK) ## check the format, run go vet and staticcheck
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "run gofmt on: $$unformatted"; exit 1; }
	go vet -tags conformance ./...
	$(STATICCHECK) -tags conformance ./...

# The version is part of the file name, so that a new version is installed.
$(STATICCHECK):
	GOBIN=$(CURDIR)/.tools go install honnef.co/go/tools/cmd/staticcheck@$(patsubst .tools/staticcheck-%,%,$@)
	mv .tools/staticcheck $@

image: ## build bastiond's image for arm64 and amd64 into .image, without Docker
	@$(GOBUILD) -o bin/operator ./cmd/operator
	@bin/operator image --revision '$(REVISION)'

push: ## build the image and push it: make push REPOSITORY=HOST/NAME
	@test -n '$(REPOSITORY)' || { echo 'Set the repository: make push REPOSITORY=111122223333.dkr.ecr.eu-west-1.amazonaws.com/NAME'; exit 2; }
	@$(MAKE) --no-print-directory image
	@bin/operator push '$(REPOSITORY)'

# deploy.mk, which git ignores, may set STACK, VPC, SUBNETS, REGION, PARAMETERS, TAGS and SMOKE.
-include deploy.mk
REGION     ?=
SMOKE      ?= 1
PARAMETERS ?=
TAGS       ?=
# set returns nothing if a switch is off. PURGE=off must not purge.
set         = $(if $(filter-out 0 1 false true no yes,$(1)),$(error DRY_RUN, SMOKE and PURGE can be 1, true, yes, 0, false or no, and one of them is $(1)),$(filter-out 0 false no,$(1)))

# quote returns one word for the shell, so that bin/operator can name what is wrong in it.
quote       = '$(subst ','\'',$(1))'

deploy: ## deploy to AWS and try a bastion: make deploy STACK=bastion VPC=vpc-… SUBNETS=subnet-…,subnet-… (DRY_RUN=1; SMOKE=0 tries none)
	@$(GOBUILD) -o bin/operator ./cmd/operator
	@bin/operator deploy --stack $(call quote,$(STACK)) --region $(call quote,$(REGION)) --vpc $(call quote,$(VPC)) --subnets $(call quote,$(SUBNETS)) \
		--parameters $(call quote,$(PARAMETERS)) --tags $(call quote,$(TAGS)) --revision '$(REVISION)' $(if $(call set,$(DRY_RUN)),--dry-run) $(if $(call set,$(SMOKE)),,--skip-trial)

undeploy: ## remove the service from AWS: make undeploy STACK=bastion (DRY_RUN=1; PURGE=1 also deletes what is kept)
	@$(GOBUILD) -o bin/operator ./cmd/operator
	@bin/operator undeploy --stack $(call quote,$(STACK)) --region $(call quote,$(REGION)) $(if $(call set,$(DRY_RUN)),--dry-run) $(if $(call set,$(PURGE)),--purge)

clean: ## remove everything that the other targets created
	rm -rf bin .tools .image .aws-sam .screenshots

include functions/build.mk
