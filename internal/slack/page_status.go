package slack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const describeTimeout = 5 * time.Second // is how long asking for a bastion may take

// viewPage is what a person sees of a start, from the button to the end.
type followPage struct {
	Title   string
	Heading string
	Status  string // what there is to say of it now, for screen readers too
	Follow  bool   // there is something to wait for
	Over    bool   // there will be no bastion of this start any more
	Address netip.Addr
	Family  string

	// One of these at most:
	Steps   []step
	Problem *problemShown
	Access  *access
}

// step is one of the steps of a start; Mark is "done", "now" or "next".
type step struct{ Text, Mark string }

type problemShown struct{ Code, Sentence string }

// serveView is the page that follows a start. Its token is good for looking only.
func (a *App) serveStatusPage(w http.ResponseWriter, r *http.Request) {
	a.servePage(w, r, statusPageRoute, []string{http.MethodGet, http.MethodHead}, func(v *visit) pageResponse {
		seen, err := a.openStatusPage(v.Context(), v.token)
		if err != nil {
			return v.failed(err)
		}
		v.owner = seen.Owner
		page, err := a.followStart(v, seen)
		if err != nil {
			return v.failed(err)
		}
		return pageResponse{status: http.StatusOK, page: "view", data: page}
	})
}

// followStart looks at what has become of a start. bastion.ErrNotFound: it has been
// over for so long that the view is over too.
func (a *App) followStart(v *visit, seen statusPage) (followPage, error) {
	page := followPage{Address: seen.Source, Family: family(seen.Source)}
	switch {
	case seen.Problem != "":
		return page.refused(seen.Problem), nil
	case seen.ID == "":
		return a.untilTaken(v, seen, page), nil
	}
	ctx, cancel := context.WithTimeout(v.Context(), describeTimeout)
	defer cancel()
	b, err := a.describe(ctx, seen.Owner, seen.ID)
	var refusal *bastion.Error
	switch {
	case errors.As(err, &refusal) && refusal.Code == bastion.CodeNotFound, err == nil && b.Owner != seen.Owner:
		return page.refused("There is no such bastion any more."), nil
	case err != nil:
		v.cause = err
		return page.troubled(), nil
	}
	if end := statusPageEnd(b, a.Now()); !end.IsZero() {
		until := seen.until(end)
		if !a.Now().Before(until) {
			return followPage{}, bastion.ErrNotFound
		}
		v.cause = a.endStatusPage(v.Context(), hashOf(v.token), until)
	}
	if b.IsOpen() && !accepts(b, seen.Source) {
		return page.movedAway(b), nil
	}
	return page.of(b, a.Now()), nil
}

// untilTaken is the page while nothing is known of the job. Whoever was handed it
// may have lost it: after a while it is handed over again, which is no harm if it
// was not lost, for the same name is the same bastion.
func (a *App) untilTaken(v *visit, seen statusPage, page followPage) followPage {
	if a.Now().Sub(seen.StartedAt) >= startTimeout {
		return page.refused("It is not known what has become of the start. Type /bastion status in Slack.")
	}
	if v.Method == http.MethodGet && a.Now().Sub(seen.EnqueuedAt) >= enqueueAgainAfter {
		v.cause = a.enqueueAgain(v.Context(), hashOf(v.token), seen.StartLink)
	}
	return page.waiting("")
}

func (a *App) enqueueAgain(ctx context.Context, viewHash, claimHash string) error {
	mine, err := a.acquireEnqueue(ctx, viewHash)
	if err != nil || !mine {
		return err
	}
	c, err := a.usedStartLink(ctx, claimHash)
	if err != nil {
		return err
	}
	return a.enqueue(ctx, startJob(c, claimHash))
}

// endOfView is when what a view follows came to its end; zero while it has not.
func statusPageEnd(b Bastion, now time.Time) time.Time {
	switch {
	case b.State == bastion.Starting:
		return time.Time{}
	case b.State == bastion.Ready && !b.ReadyAt.IsZero():
		return b.ReadyAt
	case b.Ended != nil:
		return b.Ended.At
	}
	return now
}

// of fills the page with a bastion.
func (p followPage) of(b Bastion, now time.Time) followPage {
	switch b.State {
	case bastion.Starting:
		return p.waiting(b.Stage)
	case bastion.Ready:
		return p.ready(b, now)
	case bastion.Failed:
		p = p.refused("The bastion could not be started.")
		if b.Failure != nil {
			p.Problem = &problemShown{oneLine(string(b.Failure.Code)), oneLine(b.Failure.Message)}
		}
		return p
	}
	p.Over = true
	p.Title, p.Heading = "Bastion closed", "The bastion is closed"
	p.Status = "It lets nobody in any more."
	if b.Ended != nil && endings[b.Ended.Reason] != "" {
		p.Status = "It lets nobody in any more: " + endings[b.Ended.Reason] + "."
	}
	return p
}

// refused is the page of a start that comes to nothing.
func (p followPage) refused(sentence string) followPage {
	p.Title, p.Heading = "Bastion not started", "The bastion was not started"
	p.Status = "There is nothing more to wait for."
	p.Over, p.Problem = true, &problemShown{"", oneLine(sentence)}
	return p
}

// stages are the steps that people wait for, by the API's names, in order. The
// first is before the API knows of the start.
var (
	stagesOfStart = []step{
		{"Taking up the request", ""},
		{"Making a firewall rule for your address alone", "security group"},
		{"Finding a place to run", "capacity"},
		{"Fetching the bastion's image", "image"},
		{"Getting a network address", "network"},
		{"Learning its host key", "host key"},
	}
	stagesOfMove = []step{
		{"Taking up the request", ""},
		{"Moving the firewall rule to your address", "address"},
		{"Telling the running bastion", "lease"},
	}
)

// letsIn reports whether an address is the one that a bastion is for.
func accepts(b Bastion, address netip.Addr) bool {
	source, err := netip.ParsePrefix(b.Source)
	return err == nil && source.IsSingleIP() && source.Addr() == address
}

// movedAway is the page of a bastion that has been asked for from another address
// since: what is on a page that was opened at this one is true no more. Where it
// went is said in Slack, and not to whoever holds an old page's address.
func (p followPage) movedAway(b Bastion) followPage {
	p.Title, p.Heading = "Bastion moved", "The bastion lets in another address now"
	p.Status = "It does not let in " + p.Address.String() + " any more: since this page was opened, bastion " + oneLine(b.Name) + " was asked for from elsewhere. If that was not you, close it in Slack at once: /bastion down."
	p.Over = true
	return p
}

// waiting is the page of a start that is at a stage.
func (p followPage) waiting(stage string) followPage {
	p.Follow = true
	p.Title, p.Heading = "Starting…", "Starting your bastion"
	p.Status = "It is at: " + oneLine(stage) + "."
	stages := stagesOfStart
	if stage == "address" || stage == "lease" {
		stages = stagesOfMove
	}
	at := slices.IndexFunc(stages, func(s step) bool { return s.Mark == stage })
	if at < 0 { // a stage that is not known here
		return p
	}
	p.Title = fmt.Sprintf("Starting… (%d of %d)", at+1, len(stages))
	p.Status = fmt.Sprintf("Step %d of %d: %s.", at+1, len(stages), stages[at].Text)
	for i, s := range stages {
		mark := "done"
		switch {
		case i == at:
			mark = "now"
		case i > at:
			mark = "next"
		}
		p.Steps = append(p.Steps, step{s.Text, mark})
	}
	return p
}

// troubled is the page of a start of which nothing can be learnt just now.
func (p followPage) troubled() followPage {
	p.Follow = true
	p.Title, p.Heading = "Starting…", "Starting your bastion"
	p.Status = "The service does not answer just now; this page keeps trying."
	return p
}
