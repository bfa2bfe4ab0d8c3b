package awscloud

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"net/http"
	"os"
	"reflect"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

var update = flag.Bool("update", false, "write the golden files")

var testLaunch = bastion.Launch{
	BastionID: testID, Attempt: 3, GroupID: "sg-0123456789abcdef0", Subnet: "subnet-0123456789abcdef0",
	TaskDefinition: "arn:aws:ecs:eu-central-1:123456789012:task-definition/bastion:7",
	AnnouncedAt:    time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC),
}

// TestRunTaskIsSentThis holds every parameter of RunTask: one that changes
// between two sendings of an attempt is a ConflictException.
func TestRunTaskIsSentThis(t *testing.T) {
	private := testStack
	private.Public, private.Spot = false, true
	for name, stack := range map[string]Stack{"public": testStack, "private-spot": private} {
		t.Run(name, func(t *testing.T) {
			got := sentAs(t, stack.runTaskInput(testLaunch))
			file := "testdata/runtask-" + name + ".json"
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s (%v): RunTask is sent\n%s", file, err, got)
			}
		})
	}
}

// captured keeps the body of a request that it does not send.
type captured struct{ body bytes.Buffer }

func (c *captured) Do(r *http.Request) (*http.Response, error) {
	_, err := c.body.ReadFrom(r.Body)
	return nil, errors.Join(errors.New("not sent"), err)
}

// sentAs is what the SDK makes of a RunTask, for people to read.
func sentAs(t *testing.T, in *ecs.RunTaskInput) []byte {
	t.Helper()
	var wire captured
	client := ecs.NewFromConfig(testSDK("http://wire.test"), func(o *ecs.Options) { o.HTTPClient, o.Retryer = &wire, aws.NopRetryer{} })
	if _, err := client.RunTask(t.Context(), in); err == nil {
		t.Fatal("it was sent")
	}
	var text bytes.Buffer
	if err := json.Indent(&text, wire.body.Bytes(), "", "  "); err != nil {
		t.Fatalf("%v in %s", err, &wire.body)
	}
	return append(text.Bytes(), '\n')
}

func TestRunTaskFollowsFromTheLaunchAlone(t *testing.T) {
	later := testLaunch
	later.AnnouncedAt = later.AnnouncedAt.Add(time.Hour)
	if a, b := testStack.runTaskInput(testLaunch), testStack.runTaskInput(later); !reflect.DeepEqual(a, b) {
		t.Errorf("the same attempt is sent as\n%+v and as\n%+v", a, b)
	}
	if bytes := len(*testStack.runTaskInput(testLaunch).ClientToken); bytes > 64 {
		t.Errorf("the clientToken has %d characters", bytes)
	}
}
