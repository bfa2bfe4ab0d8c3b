# `make deploy` and `sam build` call the target build-LOGICALID for each function in
# template.yaml (BuildMethod: makefile), which writes bootstrap into ARTIFACTS_DIR. The same source
# gives the same file: no paths, no build ID, no version control.

FUNCTIONS := Create Describe Extend Destroy Reaper Observer Slack

.PHONY: $(FUNCTIONS:%=build-%Function)
$(FUNCTIONS:%=build-%Function): build-%Function:
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags lambda.norpc \
		-ldflags '-s -w -buildid=' -o "$(ARTIFACTS_DIR)/bootstrap" ./functions/$(shell echo $* | tr A-Z a-z)
