package deploy

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/bastion-on-demand/bastion/internal/image"
)

// step is one thing that is done, and what a dry run says of it.
type step struct {
	what    string
	details []string // for a dry run: the commands and calls
	do      func(context.Context) error
}

// play does the steps in order and stops at the first that fails, or says only
// what they are. again is the command that repeats them.
func play(ctx context.Context, out io.Writer, dry bool, again string, steps []step) error {
	for i, s := range steps {
		fmt.Fprintf(out, "\n[%d/%d] %s\n", i+1, len(steps), s.what)
		if dry {
			for _, detail := range s.details {
				fmt.Fprintf(out, "      would %s\n", detail)
			}
			continue
		}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("step %d of %d, %s: %w\nSet that right, then run %s again: what is done is not done twice", i+1, len(steps), s.what, err, again)
		}
	}
	if dry {
		fmt.Fprintln(out, "\nThis was a dry run: nothing was called, built or changed.")
	}
	return nil
}

// poll calls look until it is done, with a pause between, and tells the progress.
func poll(ctx context.Context, progress image.Progress, what string, pause time.Duration, look func(context.Context) (done bool, state string, err error)) error {
	states := make(chan string, 1)
	latest := ""
	detail := func() string {
		select {
		case latest = <-states:
		default:
		}
		return latest
	}
	return progress.Step(what, detail, func() error {
		for {
			done, state, err := look(ctx)
			if done || err != nil {
				return err
			}
			select { // keep the newest only
			case <-states:
			default:
			}
			select {
			case states <- state:
			default:
			}
			if err := sleep(ctx, pause); err != nil {
				return err
			}
		}
	})
}

// sleep waits for d, or for the end of ctx, whose error it then answers.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
