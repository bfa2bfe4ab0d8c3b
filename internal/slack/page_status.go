package slack

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
)

const describeTimeout = 5 * time.Second // of one call for a bastion

// progressPage is the content of a status page at one time.
type progressPage struct {
	Title   string
	Heading string
	Status  string // in a live region, so screen readers announce its changes
	Follow  bool   // the page updates itself
	Over    bool   // this start has no bastion, or its bastion no longer accepts connections
	Address netip.Addr
	Family  string

	Steps   []step
	Problem *problem // may be set together with Steps, if AWS refused a step
	Access  *access
}

// step is one of the steps of a start; State is "done", "current" or "next".
type step struct{ Text, State string }

type problem struct{ Code, Sentence string }

// access contains the configuration and commands to use a bastion that is ready.
type access struct {
	File     string // the name of the configuration's file
	Config   string
	Save     string // the shell command that writes File
	Target   string // the host in Connect
	Connect  string // the command that connects through the bastion
	Console  string // the command that opens the status console; may be empty
	Address  netip.Addr
	Family   string
	Keys     []string
	Deadline time.Time
	Left     time.Duration
}

// serveStatusPage serves the page that shows the progress of a start. Its token permits
// reading only. With ?download, it sends the ssh configuration as a file.
func (a *App) serveStatusPage(x *httpedge.Exchange, token string) {
	a.servePage(x, token, statusPageRoute, []string{http.MethodGet, http.MethodHead}, func(v *visit) pageResponse {
		stored, err := a.openStatusPage(v.Context(), v.token)
		if err != nil {
			return v.failed(err)
		}
		v.Owner = stored.Owner
		page, err := a.progress(v, stored)
		if err != nil {
			return v.failed(err)
		}
		if page.Access != nil && v.URL.Query().Has("download") {
			v.header.Set("Content-Type", "text/plain; charset=utf-8")
			v.header.Set("Content-Disposition", `attachment; filename="`+page.Access.File+`"`)
			return pageResponse{status: http.StatusOK, file: []byte(page.Access.Config)}
		}
		return pageResponse{status: http.StatusOK, page: "status", data: page}
	})
}

// progress looks up the state of a start. It returns bastion.ErrNotFound if the
// start ended so long ago that the page has expired.
func (a *App) progress(v *visit, stored statusPage) (progressPage, error) {
	page := progressPage{Address: stored.Source, Family: family(stored.Source)}
	switch {
	case stored.Problem != "":
		return page.failed(startHeading(stored.Problem), stored.Problem), nil
	case stored.ID == "":
		return a.waitForJob(v, stored, page), nil
	}
	ctx, cancel := context.WithTimeout(v.Context(), describeTimeout)
	defer cancel()
	b, err := a.describe(ctx, stored.Owner, stored.ID)
	var refusal *bastion.Error
	switch {
	case errors.As(err, &refusal) && refusal.Code == bastion.CodeNotFound, err == nil && b.Owner != stored.Owner:
		return page.failed("This bastion no longer exists", "To start another bastion, run /bastion up in Slack."), nil
	case err != nil:
		v.Cause = err
		return page.retrying(), nil
	}
	if end := startEndedAt(b, a.Now()); !end.IsZero() {
		until := stored.until(end)
		if !a.Now().Before(until) {
			return progressPage{}, bastion.ErrNotFound
		}
		v.Cause = a.endStatusPage(v.Context(), hashOf(v.token), until)
	}
	if b.IsOpen() && !accepts(b, stored.Source) {
		return page.moved(b), nil
	}
	return page.forBastion(b, a.Now()), nil
}

// waitForJob returns the page while the job has reported nothing. The job may have
// been lost, so it is enqueued again after a while. That is safe: a second run of the
// job finds the bastion that the first run has started.
func (a *App) waitForJob(v *visit, stored statusPage, page progressPage) progressPage {
	if a.Now().Sub(stored.StartedAt) >= startTimeout {
		return page.failed(unknownHeading, "Run /bastion status in Slack to see whether it was.")
	}
	if v.Method == http.MethodGet && a.Now().Sub(stored.EnqueuedAt) >= enqueueAgainAfter {
		v.Cause = a.enqueueAgain(v.Context(), hashOf(v.token), stored)
	}
	return page.waiting("")
}

func (a *App) enqueueAgain(ctx context.Context, hash string, page statusPage) error {
	acquired, err := a.acquireEnqueue(ctx, hash)
	if err != nil || !acquired {
		return err
	}
	return a.enqueue(ctx, page.startJob())
}

// startEndedAt returns the time at which the start was complete or the bastion ended. It
// returns a zero time while the bastion starts.
func startEndedAt(b Bastion, now time.Time) time.Time {
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

// accepts reports whether a bastion accepts connections from an address.
func accepts(b Bastion, address netip.Addr) bool {
	for _, text := range append([]string{b.Source}, b.Sources...) { // an earlier version of the API has Source only
		if source, err := netip.ParsePrefix(text); err == nil && source.Contains(address) {
			return true
		}
	}
	return false
}

// forBastion returns the page for the state of a bastion.
func (p progressPage) forBastion(b Bastion, now time.Time) progressPage {
	switch b.State {
	case bastion.Starting:
		return p.waiting(b.Stage).delayed(b)
	case bastion.Ready:
		return p.ready(b, now)
	case bastion.Failed:
		p = p.failed(notStartedHeading, "The bastion couldn't be started.")
		if b.Failure != nil {
			p.Problem = &problem{oneLine(string(b.Failure.Code)), oneLine(b.Failure.Message)}
		}
		return p
	}
	if b.IsDelayed() {
		p.Title, p.Heading = "Closing is delayed", "Closing the bastion is delayed"
		p.Follow = true
		p = p.delayed(b)
		p.Status += " The deadline is " + b.Deadline.UTC().Format("2006-01-02 15:04 UTC") + "."
		return p
	}
	p.Over = true
	p.Title, p.Heading = "Bastion closed", "The bastion is closed"
	p.Status = "It no longer accepts connections."
	if b.Ended != nil {
		p.Status = strings.TrimSpace(p.Status + " " + api.EndSentence(b.Ended.Reason))
	}
	return p
}

// delayed returns the page with what AWS refused and what the service does about a delay.
// At the stage "delayed", the page of a start has no steps, because the service does not
// know when AWS will carry out the next step. If AWS refused a step until the
// configuration, a quota or the capacity changes, the bastion keeps its stage, so the page
// of the start still has its steps.
func (p progressPage) delayed(b Bastion) progressPage {
	if !b.IsDelayed() {
		return p
	}
	if len(p.Steps) == 0 {
		p.Status = api.StageText(b.Stage)
		if p.Status == "" {
			p.Status = "AWS refused the latest step"
		}
		p.Status += "."
	}
	p.Status += " " + b.DelaySentence()
	if b.Failure != nil {
		p.Problem = &problem{oneLine(string(b.Failure.Code)), "AWS refused the latest step: " + oneLine(b.Failure.Message)}
	}
	return p
}

// failed returns the page for a start that has failed, whose bastion must not be used or no
// longer exists, or whose result is not known.
func (p progressPage) failed(heading, sentence string) progressPage {
	p.Title, p.Heading = heading, heading
	p.Over, p.Problem = true, &problem{"", oneLine(sentence)}
	return p
}

// moved returns the page of a bastion that has been requested from another address
// since. Only Slack shows the new address, because somebody else may have the old page.
func (p progressPage) moved(b Bastion) progressPage {
	p.Title, p.Heading = "Bastion moved", "The bastion moved to another address"
	p.Status = "Bastion " + oneLine(b.Name) + " no longer accepts " + p.Address.String() + ": it was requested from another address. If that wasn't you, close it in Slack now: /bastion down."
	p.Over = true
	return p
}

// The stages of a start and of a move to another address, in order. The empty first
// stage lasts until the API has accepted the request.
var (
	startStages = []string{"", "security group", "capacity", "image", "network", "host key"}
	moveStages  = []string{"", "address", "lease"}
)

// stageText returns the title of a step.
func stageText(stage string) string {
	if stage == "" {
		return "Accepting the request"
	}
	return api.StageText(stage)
}

// waiting returns the page of a start that has reached a stage.
func (p progressPage) waiting(stage string) progressPage {
	p.Follow = true
	p.Title, p.Heading = "Starting…", "Starting your bastion"
	p.Status = "Current stage: " + oneLine(stage) + "."
	stages := startStages
	if slices.Contains(moveStages[1:], stage) {
		stages = moveStages
	}
	at := slices.Index(stages, stage)
	if at < 0 { // a stage that this version does not know
		return p
	}
	p.Title = fmt.Sprintf("Starting… (%d of %d)", at+1, len(stages))
	p.Status = fmt.Sprintf("Step %d of %d: %s.", at+1, len(stages), stageText(stage))
	for i, stage := range stages {
		state := "done"
		switch {
		case i == at:
			state = "current"
		case i > at:
			state = "next"
		}
		p.Steps = append(p.Steps, step{stageText(stage), state})
	}
	return p
}

// retrying returns the page for the time while the API does not respond.
func (p progressPage) retrying() progressPage {
	p.Follow = true
	p.Title, p.Heading = "Starting…", "Starting your bastion"
	p.Status = "The service isn't responding. Retrying…"
	return p
}

// ready returns the page of a bastion that is ready.
func (p progressPage) ready(b Bastion, now time.Time) progressPage {
	if !safeName.MatchString(b.Name) || !safeConfig(b) {
		p = p.failed("Do not use this bastion", "The service returned an unexpected configuration, so it isn't shown. Close the bastion in Slack with /bastion down, and tell your operator.")
		p.Status = "Connecting to it isn't safe."
		p.Over = false
		return p
	}
	p.Title, p.Heading = "Ready: bastion "+b.Name, "Bastion "+b.Name+" is ready"
	p.Status = "Ready. You can connect now."
	file, target, command := connectVia(b)
	p.Access = &access{
		File: file, Config: b.SSHConfig,
		Save:   "cat > " + file + " <<'EOF'\n" + b.SSHConfig + "EOF\n",
		Target: target, Connect: command,
		Address: p.Address, Family: p.Family, Keys: b.Keys,
		Deadline: b.Deadline, Left: max(0, b.Deadline.Sub(now)),
	}
	if safeCommand.MatchString(b.SSH) {
		p.Access.Console = b.SSH
	}
	return p
}

// People paste the configuration and the commands of a status page into a file and a
// shell, without checking them. These texts contain the host key that a task has reported.
// The API has checked the key. These patterns check again that a text contains no other
// command or option.
var (
	safeName    = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	safeTarget  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]*$`)
	safeCommand = regexp.MustCompile(`^ssh( [A-Za-z0-9=@:/+._\[\]-]+| 'KnownHostsCommand=` + printLines + ` [A-Za-z0-9 =:/+.\[\]-]+')+$`)
	safeLine    = regexp.MustCompile(`^(` + api.KnownHostsPrefix + `[A-Za-z0-9:.\[\]-]+ [a-z0-9-]+ [A-Za-z0-9+/=]+|( *(HostName|Port|User|UserKnownHostsFile|GlobalKnownHostsFile|StrictHostKeyChecking|KnownHostsCommand ` + printLines + `)|Host) [A-Za-z0-9 =@:/+._\[\]-]+|  Ciphers [a-z0-9@.,-]+)\n$`)
)

// printLines matches the command that prints known_hosts lines of three words.
const printLines = `/usr/bin/env printf "%%s %%s %%s\\n"`

// safeConfig reports whether a bastion's ssh configuration is safe to use. It must consist of
// complete lines. Each line must be one of the comments that this program writes, or a known
// option. The only command in an option is printf.
func safeConfig(b Bastion) bool {
	lines := strings.TrimPrefix(b.SSHConfig, api.WithoutKnownHostsCommand(bastion.HostAlias(b.Name)))
	for line := range strings.Lines(lines) {
		if !safeLine.MatchString(line) {
			return false
		}
	}
	return lines != ""
}

// connectVia returns the name of the file for a bastion's configuration, and the command
// that connects to a target through the bastion. The target is the first host of the
// configuration that is not the bastion, or else a placeholder.
func connectVia(b Bastion) (file, target, command string) {
	alias := bastion.HostAlias(b.Name)
	file, target = alias+".conf", "TARGET"
	for line := range strings.Lines(b.SSHConfig) {
		host, ok := strings.CutPrefix(strings.TrimSpace(line), "Host ")
		if ok && host != alias && safeTarget.MatchString(host) {
			target = host
			break
		}
	}
	return file, target, "ssh -F " + file + " -J " + alias + " " + target
}
