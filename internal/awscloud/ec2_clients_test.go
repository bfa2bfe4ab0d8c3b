package awscloud

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecs"

	"github.com/bastion-on-demand/bastion/internal/localcloud"
)

func TestThrottlingDoesNotReachTheCaller(t *testing.T) {
	t.Parallel()
	w := newWire(t, localcloud.Config{}, nil)
	w.patient()
	w.cloud.Throttle(1)
	launch := w.launch(t, testID, 1)
	w.cloud.Throttle(1)
	if _, err := w.tasks.Run(t.Context(), launch); err != nil {
		t.Error(err)
	}
	if want, got := []string{"CreateSecurityGroup", "CreateSecurityGroup", "RunTask", "RunTask"}, w.server.Calls(); !slices.Equal(got, want) {
		t.Errorf("called %q, not %q", got, want)
	}
}

// patient gives the adapters the patience that the clients have on their own.
func (w *wire) patient() {
	w.groups.ec2 = ec2.New(w.ec2.Options(), func(o *ec2.Options) { o.Retryer = newComputeRetryer() })
	w.tasks.ecs = ecs.New(w.ecs.Options(), func(o *ecs.Options) { o.Retryer = newComputeRetryer() })
}

func TestPatienceEndsWithTheCallers(t *testing.T) {
	t.Parallel()
	w := newWire(t, localcloud.Config{}, nil)
	w.patient()
	w.cloud.Throttle(1000)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := w.groups.Create(ctx, testID)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestEveryCallHasItsRate(t *testing.T) {
	calls := 0
	for _, api := range []reflect.Type{reflect.TypeFor[EC2Groups](), reflect.TypeFor[EC2Interfaces](), reflect.TypeFor[ECSTasks]()} {
		for i := range api.NumMethod() {
			calls++
			name := api.Method(i).Name
			if len(Rates[name]) == 0 {
				t.Errorf("%s has no rate", name)
			}
			for _, r := range Rates[name] {
				if r.Bucket == "" || r.Burst < r.PerSecond || r.PerSecond <= 0 {
					t.Errorf("%s has the rate %+v", name, r)
				}
			}
		}
	}
	if calls != len(Rates) {
		t.Errorf("%d calls have %d rates", calls, len(Rates))
	}
}
