package image

import (
	"bytes"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestLongStepPrintsProgress(t *testing.T) {
	detail := func() string { return "half of it" }
	for _, test := range []struct {
		name   string
		lasts  time.Duration
		detail func() string
		want   string
	}{
		{"short", 900 * time.Millisecond, detail, "pull\n"},
		{"long", 9500 * time.Millisecond, detail,
			"pull\npull: 1s, half of it\npull: 2s, half of it\npull: 4s, half of it\npull: 8s, half of it\npull: done in 9.5s\n"},
		{"no detail", 1500 * time.Millisecond, nil, "pull\npull: 1s\npull: done in 1.5s\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var printed bytes.Buffer
				err := Progress{W: &printed}.Step("pull", test.detail, func() error {
					<-time.After(test.lasts)
					return nil
				})
				if err != nil || printed.String() != test.want {
					t.Errorf("%v\n%s", err, &printed)
				}
			})
		})
	}
}

func TestFailedStepIsNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var printed bytes.Buffer
		broken := errors.New("broken")
		err := Progress{W: &printed}.Step("pull", nil, func() error {
			<-time.After(1500 * time.Millisecond)
			return broken
		})
		if !errors.Is(err, broken) || printed.String() != "pull\npull: 1s\n" {
			t.Errorf("%v\n%s", err, &printed)
		}
	})
}
