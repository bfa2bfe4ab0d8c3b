# What `sam build` calls for each function of template.yaml (BuildMethod:
# makefile): the target of its logical id puts a bootstrap into ARTIFACTS_DIR. It
# is the same for the same source: no paths, no build id, no version control.

FUNCTIONS := Create Describe Extend Destroy Reaper Observer Slack

.PHONY: $(FUNCTIONS:%=build-%Function)
$(FUNCTIONS:%=build-%Function): build-%Function:
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -trimpath -buildvcs=false -tags lambda.norpc \
		-ldflags '-s -w -buildid=' -o "$(ARTIFACTS_DIR)/bootstrap" ./functions/$(shell echo $* | tr A-Z a-z)
