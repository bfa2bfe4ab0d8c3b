package awscloud

import (
	"regexp"
	"testing"
)

func TestNamesAreValidOnAWS(t *testing.T) {
	for name, pattern := range map[string]string{
		StartedBy(testID):                 `^[A-Za-z0-9_/-]{1,128}$`,
		ClientToken(testID, 1_000_000):    `^[!-~]{1,64}$`,
		GroupName(testID):                 `^[a-z][a-z0-9-]{1,254}$`,
		testStack.taskARN("0123456789ab"): `^arn:aws:ecs:eu-central-1:123456789012:task/bastions/0123456789ab$`,
	} {
		if !regexp.MustCompile(pattern).MatchString(name) {
			t.Errorf("%q does not match %s", name, pattern)
		}
	}
	if ClientToken(testID, 1) == ClientToken(testID, 2) {
		t.Error("two attempts have the same clientToken")
	}
	if id := TaskID(testStack.taskARN("0123456789ab")); id != "0123456789ab" {
		t.Errorf("the task id is %q", id)
	}
}

func TestStartedByNamesTheBastion(t *testing.T) {
	for startedBy, want := range map[string]string{StartedBy(testID): testID, "ecs-svc/123": "", "bastion/": "", "": ""} {
		if id, ok := BastionID(startedBy); id != want || ok != (want != "") {
			t.Errorf("%q: %q, %t, want %q", startedBy, id, ok, want)
		}
	}
}
