package awscloud

import (
	"regexp"
	"testing"
)

func TestNamesHaveTheFormsThatAWSTakes(t *testing.T) {
	for name, form := range map[string]string{
		StartedBy(testID):                 `^[A-Za-z0-9_/-]{1,128}$`,
		ClientToken(testID, 1_000_000):    `^[!-~]{1,64}$`,
		GroupName(testID):                 `^[a-z][a-z0-9-]{1,254}$`,
		testStack.taskARN("0123456789ab"): `^arn:aws:ecs:eu-central-1:123456789012:task/bastions/0123456789ab$`,
	} {
		if !regexp.MustCompile(form).MatchString(name) {
			t.Errorf("%q is not of the form %s", name, form)
		}
	}
	if ClientToken(testID, 1) == ClientToken(testID, 2) {
		t.Error("two attempts have one clientToken")
	}
	if id := TaskID(testStack.taskARN("0123456789ab")); id != "0123456789ab" {
		t.Errorf("the task's id is %q", id)
	}
}

func TestStartedByNamesTheBastion(t *testing.T) {
	for startedBy, want := range map[string]string{StartedBy(testID): testID, "ecs-svc/123": "", "bastion/": "", "": ""} {
		if id, ours := BastionID(startedBy); id != want || ours != (want != "") {
			t.Errorf("%q is of %q, %t", startedBy, id, ours)
		}
	}
}
