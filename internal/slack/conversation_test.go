package slack

import (
	"strings"
	"testing"
	"time"
)

func TestStagesAreTwoAtMost(t *testing.T) {
	d := newDesk(t)
	d.talkAt(aBastion("web"), hookA, start)
	for version, stage := range []string{"security group", "capacity", "image", "network"} {
		d.tell(noticeOf(int64(version+1), stageOf(stage)))
	}
	if n := len(d.slack.posts); n != maxStages {
		t.Errorf("%d letters about stages, want %d", n, maxStages)
	}
}

// While something newer is being posted, nothing older is.
func TestNothingOldIsPostedBesideSomethingNew(t *testing.T) {
	d := newDesk(t)
	b := aBastion("web")
	d.talkAt(b, hookA, start)
	if _, _, err := d.takeURL(t.Context(), *b, aboutReady, 9); err != nil {
		t.Fatal(err)
	}
	d.tell(noticeOf(7, stageOf("image")))
	if n := len(d.slack.posts); n != 0 {
		t.Errorf("%d posts", n)
	}
}

// A conversation stays where its person has last asked.
func TestTalkDoesNotMoveBack(t *testing.T) {
	d := newDesk(t)
	b := aBastion("web")
	d.talkAt(b, hookB, start.Add(time.Minute))
	d.talkAt(b, hookA, start)
	if to, _, err := d.takeURL(t.Context(), *b, aboutReady, 1); err != nil || to != hookB {
		t.Errorf("it goes on at %s: %v", to, err)
	}
}

func TestReceiptCountsWhatItDoesNotName(t *testing.T) {
	r := Receipt{Destinations: strings.Fields(strings.Repeat("db:5432 ", 12)), Unnamed: 3}
	if got := reached(r); !strings.HasSuffix(got, " and 5 more") || strings.Count(got, "db:5432") != maxReached {
		t.Errorf("reached %q", got)
	}
	if got := reached(Receipt{Unnamed: 3}); got != "3 more" {
		t.Errorf("reached %q", got)
	}
}
