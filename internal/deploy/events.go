package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation"
	"github.com/aws/aws-sdk-go-v2/service/cloudformation/types"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// quietPeriod is the longest time without a line while a stack changes.
const quietPeriod = 30 * time.Second

// follower follows a change of a stack by the stack's events.
type follower struct {
	api    Stacks
	out    io.Writer
	name   string // of the stack, for messages
	id     string // of the stack; it also finds a deleted stack
	latest string // the ID of the latest event that is known

	started bool               // whether the events have the beginning of the change
	ended   bool               // and its end
	failed  []types.StackEvent // of resources, the oldest first
	running []string           // the logical IDs of the resources that are being changed
}

// follow returns a follower of the next change. Call it before the change.
func follow(ctx context.Context, api Stacks, out io.Writer, name, id string) (*follower, error) {
	f := &follower{api: api, out: out, name: name, id: id}
	page, err := api.DescribeStackEvents(ctx, &cloudformation.DescribeStackEventsInput{StackName: &id})
	if err != nil {
		return nil, fmt.Errorf("read the events of the stack %s: %w", name, err)
	}
	if len(page.StackEvents) > 0 { // the newest is the first
		f.latest = aws.ToString(page.StackEvents[0].EventId)
	}
	return f, nil
}

// wait prints the resources as they change, until the change has ended, and returns the
// stack. If ctx ends first, CloudFormation continues, and the error says so.
func (f *follower) wait(ctx context.Context) (stack, error) {
	began := time.Now()
	printed := began
	for {
		s, lines, err := f.look(ctx)
		now := time.Now()
		switch {
		case ctx.Err() != nil:
			return s, fmt.Errorf("CloudFormation continues to change the stack %s, and the next run waits until it is done: %w", f.name, ctx.Err())
		case err != nil:
			return s, err
		case s.status == types.StackStatusDeleteComplete || f.ended && !s.changing():
			return s, nil
		case lines > 0:
			printed = now
		case now.Sub(printed) >= quietPeriod:
			fmt.Fprintf(f.out, "  after %s: %s, waiting for %s\n", now.Sub(began).Round(time.Second), s.status, f.waitingFor())
			printed = now
		}
		_ = bastion.Sleep(ctx, stackPause) // if ctx ends, the next round returns the error
	}
}

// look reads the stack and the new events, and returns how many lines it printed. The
// status is read before the events, so that all events have been read when it is final. A
// status that is read too early is final, too, but of the last change.
func (f *follower) look(ctx context.Context) (s stack, lines int, err error) {
	if s, err = fetchStack(ctx, f.api, f.id); err != nil {
		return s, 0, err
	}
	lines, err = f.read(ctx)
	return s, lines, err
}

// waitingFor names up to three resources that are being changed.
func (f *follower) waitingFor() string {
	switch n := len(f.running); {
	case n == 0:
		return "CloudFormation"
	case n > 3:
		return fmt.Sprintf("%s and %d more", strings.Join(f.running[:3], ", "), n-3)
	}
	return strings.Join(f.running, ", ")
}

// read reads the events since the latest that is known, and returns how many lines it
// printed.
func (f *follower) read(ctx context.Context) (lines int, err error) {
	events, err := f.since(ctx)
	if err != nil {
		return 0, fmt.Errorf("read the events of the stack %s: %w", f.name, err)
	}
	for _, e := range events {
		f.latest = aws.ToString(e.EventId)
		status, name := string(e.ResourceStatus), aws.ToString(e.LogicalResourceId)
		if aws.ToString(e.PhysicalResourceId) == f.id { // the stack's own
			inProgress := strings.HasSuffix(status, "_IN_PROGRESS")
			f.started = f.started || inProgress
			f.ended = f.started && !inProgress // a late event of the last change is no end
			continue
		}
		f.running = slices.DeleteFunc(f.running, func(other string) bool { return other == name })
		if strings.HasSuffix(status, "_IN_PROGRESS") {
			f.running = append(f.running, name)
			continue
		}
		line := fmt.Sprintf("  %s %s (%s)", status, name, aws.ToString(e.ResourceType))
		if strings.HasSuffix(status, "_FAILED") {
			f.failed = append(f.failed, e)
			line += ": " + aws.ToString(e.ResourceStatusReason)
		}
		fmt.Fprintln(f.out, line)
		lines++
	}
	return lines, nil
}

// since returns the events after the latest that is known, the oldest first.
func (f *follower) since(ctx context.Context) (events []types.StackEvent, err error) {
	defer func() { slices.Reverse(events) }()
	pages := cloudformation.NewDescribeStackEventsPaginator(f.api, &cloudformation.DescribeStackEventsInput{StackName: &f.id})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, e := range page.StackEvents { // the newest first
			if f.latest != "" && aws.ToString(e.EventId) == f.latest {
				return events, nil
			}
			events = append(events, e)
		}
	}
	return events, nil
}

// failure returns an error with the reasons of a failed change, the first failure first.
// After a failure, CloudFormation cancels what it was changing at that time; these
// resources are only listed if there is no other.
func (f *follower) failure(s stack) error {
	cancelled := func(e types.StackEvent) bool {
		return strings.Contains(aws.ToString(e.ResourceStatusReason), "cancelled")
	}
	reasons := slices.DeleteFunc(slices.Clone(f.failed), cancelled)
	if len(reasons) == 0 {
		reasons = f.failed
	}
	text := fmt.Sprintf("the stack %s is %s", f.name, s.status)
	if s.status == types.StackStatusUpdateRollbackComplete {
		text += ", so it runs as before"
	}
	for _, e := range reasons {
		text += fmt.Sprintf("\n  %s (%s): %s", aws.ToString(e.LogicalResourceId), aws.ToString(e.ResourceType), aws.ToString(e.ResourceStatusReason))
	}
	if len(reasons) == 0 {
		text += "; its events name no resource that failed, and its reason is: " + s.reason
	}
	return errors.New(text)
}
