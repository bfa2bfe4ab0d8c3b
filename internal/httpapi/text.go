package httpapi

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// text is an answer as a configuration file for ssh: what there is to know and to
// do next as comments, then the hosts that are ready. Only the caller's own are
// hosts: nobody else's let them in, and two owners may use the same name.
func (a *handler) text(caller bastion.Caller, ans answer) []byte {
	var b strings.Builder
	var ready []access
	for i, rec := range ans.records {
		if i > 0 {
			b.WriteByte('\n')
		}
		a.describe(&b, rec)
		at, ok := accessOf(rec)
		if ok && at.hostKey != "" && rec.State() == bastion.Ready && rec.Owner == caller.Owner {
			ready = append(ready, at)
		}
	}
	if len(ans.records) == 0 {
		comment(&b, "no bastions; POST %s makes one", collection)
	}
	if len(ready) > 0 {
		b.WriteByte('\n')
		a.explain(&b, ready)
		b.WriteString(sshConfig(ready, a.Targets))
	}
	return []byte(b.String())
}

// describe writes the comments about one bastion.
func (a *handler) describe(b *strings.Builder, rec bastion.Record) {
	name, here := rec.Name, collection+"/"+rec.ID
	switch rec.State() {
	case bastion.Starting:
		comment(b, "bastion %s: starting, waiting for: %s", name, rec.Stage())
	case bastion.Ready:
		comment(b, "bastion %s: ready until %s (%s left)", name, timestamp(rec.Intent.Deadline), rec.Intent.Deadline.Sub(a.Now()).Round(time.Second))
		comment(b, "it can be extended until %s at the latest", timestamp(rec.LatestDeadline))
	case bastion.Closing:
		comment(b, "bastion %s: closing, because %s", name, ended(rec))
	case bastion.Closed:
		comment(b, "bastion %s: closed, because %s", name, ended(rec))
	case bastion.Failed:
		comment(b, "bastion %s: failed (%s)", name, rec.End.Failure.Code)
		comment(b, "%s", rec.End.Failure.Message)
	}
	comment(b, "id %s, owner %s, for %s with the key %s", rec.ID, rec.Owner, rec.Intent.Source.Addr(), strings.Join(api.NewBastion(rec).Keys, ", "))
	if rec.Intent.Reason != "" {
		comment(b, "reason: %s", rec.Intent.Reason)
	}
	switch rec.State() {
	case bastion.Starting:
		comment(b, "ask again: GET %s with the headers Accept: text/plain and Prefer: wait=%d", here, int(a.MaxWait.Seconds()))
	case bastion.Closing:
		comment(b, "its task, address and rules are being taken away; DELETE %s answers 200 once nothing is left", here)
	case bastion.Closed, bastion.Failed:
		comment(b, "for a new one: POST %s", collection)
	}
}

// explain writes what to do with the hosts that follow.
func (a *handler) explain(b *strings.Builder, ready []access) {
	file, alias := hostAlias(ready[0].name)+".conf", hostAlias(ready[0].name)
	if len(ready) > 1 {
		file = "bastions.conf"
	}
	target := "TARGET"
	if len(a.Targets) > 0 {
		target = a.Targets[0].Name
	}
	comment(b, "save as %s, then: ssh -F %s -J %s %s", file, file, alias, target)
	comment(b, "status, extend, close: ssh -F %s %s", file, alias)
	comment(b, "if ssh does not find your key, append a line: IdentityFile ~/.ssh/YOUR-KEY")
}

// ended says why a bastion was closed, after "because".
func ended(rec bastion.Record) string {
	switch rec.End.Reason {
	case bastion.EndClosed:
		return "it was asked to"
	case bastion.EndConsole:
		return "its console was asked to"
	case bastion.EndDeadline:
		return "its time was up"
	case bastion.EndIdle:
		return "nobody used it"
	case bastion.EndTask:
		return "its task ended by itself"
	}
	return string(rec.End.Reason)
}

func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") }

// comment writes one comment line. People's own words stay inside it: whatever is
// not printable, line ends above all, becomes a space.
func comment(b *strings.Builder, format string, args ...any) {
	b.WriteString("# ")
	b.WriteString(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, fmt.Sprintf(format, args...)))
	b.WriteByte('\n')
}
