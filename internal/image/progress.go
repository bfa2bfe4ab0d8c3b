package image

import (
	"fmt"
	"io"
	"time"
)

// Progress prints what is being done, in lines for a person.
type Progress struct {
	W io.Writer
}

// Step prints what is done, and does it. While do runs, it prints the time that has
// passed after one second, two, four and so on, with the detail if there is one.
func (p Progress) Step(what string, detail func() string, do func() error) error {
	fmt.Fprintln(p.W, what)
	began := time.Now()
	ended := make(chan error, 1)
	go func() { ended <- do() }()
	next := time.Second
	timer := time.NewTimer(next)
	defer timer.Stop()
	for {
		select {
		case err := <-ended:
			if took := time.Since(began); err == nil && took >= time.Second {
				fmt.Fprintf(p.W, "%s: done in %s\n", what, took.Round(100*time.Millisecond))
			}
			return err
		case <-timer.C:
			more := ""
			if detail != nil {
				more = ", " + detail()
			}
			fmt.Fprintf(p.W, "%s: %s%s\n", what, next, more)
			timer.Reset(next)
			next *= 2
		}
	}
}
