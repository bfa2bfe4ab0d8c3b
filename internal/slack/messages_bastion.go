package slack

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// This file holds what people read of a bastion of theirs.

// downSentence is for a start that got no answer.
const downSentence = "The bastion service does not answer. It is not known whether the start was begun: ask for " + slash + " status in a minute, and if there is nothing, for a new link. If it goes on, tell your operator."

// notStartedLetter says why a link that was used comes to nothing.
// Whoever did not use it learns that somebody else did.
func notStartedMessage(sentence string, refusal *bastion.Error, from netip.Addr) *message {
	l := newMessage("The bastion was not started.", "The bastion was not started").say("%s", sentence).
		say("Your link was used from %s. If that was not you, tell your operator, and see to it that nothing is open: %s down", from, slash)
	if refusal != nil {
		l.say("Code: %s", refusal.Code)
	}
	return l
}

// usedLetter takes the place of the link: it says which address has used it.
func usedMessage(b Bastion, from netip.Addr) *message {
	l := newMessage("Your link was used.", fmt.Sprintf("Your link was used from %s", from)).
		say("If that was not you, close the bastion at once, and tell your operator: somebody else came by your link.")
	return aboutBastion(l, b, "Close: this was not me, or not needed")
}

// stateLetter says how a bastion is, and what to do with it.
func stateMessage(b Bastion) *message {
	return aboutBastion(&message{notification: "Your bastion: " + known(b.State) + "."}, b, "Close")
}

// known is a state, if it is one: it stands in a notification.
func known(state bastion.State) string {
	switch state {
	case bastion.Starting, bastion.Ready, bastion.Closing, bastion.Closed, bastion.Failed:
		return string(state)
	}
	return "changed"
}

// waiting says what the stages of a start wait for.
var waiting = map[string]string{
	"security group": "its firewall rule is being made",
	"capacity":       "waiting for a machine",
	"image":          "its program is being fetched",
	"network":        "waiting for its address",
	"host key":       "waiting for it to answer",
	"address":        "your new address is being let in",
	"lease":          "the change is on its way to it",
}

// aboutBastion adds what there is to know of a bastion, and its buttons.
func aboutBastion(l *message, b Bastion, closeLabel string) *message {
	title := fmt.Sprintf("Bastion %s is %s", b.Name, b.State)
	if why, ok := waiting[b.Stage]; ok {
		title += ": " + why
	}
	l.blocks = append(l.blocks, newMessage("", title).blocks...)
	l.list(facts(b)...)
	if b.State == bastion.Ready && b.SSHConfig != "" {
		connecting(l, b)
	}
	if !b.IsOpen() {
		return l
	}
	return l.dates("Open until %s; it can be extended until %s.", b.Deadline, b.LatestDeadline).
		buttons(extendButton(b.ID), closeButton(b.ID, closeLabel))
}

// facts are lines about a bastion.
func facts(b Bastion) []string {
	letsIn := "Lets in: " + addressOnly(b.Source) + " with the key " + strings.Join(b.Keys, ", ")
	if b.IsOpen() {
		letsIn += " - if that is not you, close it at once"
	}
	lines := []string{letsIn}
	if b.Host != "" {
		lines = append(lines, "Address: "+net.JoinHostPort(b.Host, strconv.Itoa(b.Port)))
	}
	if b.Reason != "" {
		lines = append(lines, "Because: "+b.Reason)
	}
	return lines
}

// addressOnly is a source, which is a prefix of full length, as people know it.
func addressOnly(source string) string {
	return strings.TrimSuffix(strings.TrimSuffix(source, "/32"), "/128")
}

// connecting adds the configuration for ssh, and what to do with it.
func connecting(l *message, b Bastion) {
	alias := "bastion-" + b.Name
	file := alias + ".conf"
	l.say("Save this as %s:", file).
		code(b.SSHConfig).
		say("then connect through it; if ssh does not find your key, add a line IdentityFile to the file:").
		code(fmt.Sprintf("ssh -F %s -J %s TARGET", file, alias))
}

// closingLetter answers down.
func closingMessage(b Bastion) *message {
	if ended(b) {
		return newMessage("Your bastion is closed.", fmt.Sprintf("Bastion %s is closed already", b.Name))
	}
	return newMessage("Your bastion is closing.", fmt.Sprintf("Bastion %s is closing", b.Name)).
		say("Nobody gets in any more, and open connections end. What it was used for is said here when all of it is gone, which takes AWS up to fifteen minutes.")
}

// extendedLetter answers extend.
func extendedMessage(b Bastion, job Job) *message {
	title := fmt.Sprintf("Bastion %s stays", b.Name)
	// Deadlines are whole seconds, and clocks differ.
	if asked := job.At.Add(job.TTL); b.Deadline.After(asked.Add(time.Minute)) {
		title = fmt.Sprintf("Bastion %s stays longer than that anyway", b.Name)
	}
	return aboutBastion(newMessage("Your bastion stays.", title), b, "Close")
}

// maxListed is how many bastions one letter lists: each takes eight blocks, and
// Slack takes fifty.
const maxListed = 6

// statusLetter answers status.
func statusMessage(all []Bastion) *message {
	if len(all) == 0 {
		return newMessage("You have no bastions.", "You have no bastions").say("For one: %s up", slash)
	}
	l := &message{notification: "Your bastions."}
	for _, b := range all[:min(len(all), maxListed)] {
		aboutBastion(l, b, "Close "+shortened(b.Name, maxNameShown))
	}
	if more := len(all) - maxListed; more > 0 {
		l.say("And %d more.", more)
	}
	return l
}

// maxNameShown is how long a name may be on a button.
const maxNameShown = 32

// whichLetter says that it takes a name, or that there is nothing to name.
func whichMessage(which whichError, job Job) *message {
	verb, example := "close", "down "
	if job.Action == JobExtend {
		verb, example = "extend", "extend "+bastion.FormatTTL(max(job.TTL, time.Second))+" "
	}
	if len(which.open) == 0 {
		return newMessage("You have no bastion open.", fmt.Sprintf("You have no bastion open, so there is none to %s", verb)).
			say("For one: %s up", slash)
	}
	title := fmt.Sprintf("You have more than one bastion open: say which to %s", verb)
	if which.name != "" {
		title = fmt.Sprintf("You have no bastion open that is called %s", which.name)
	}
	l := newMessage("Which bastion?", title)
	for _, b := range which.open[:min(len(which.open), maxListed)] {
		l.code(slash+" "+example+b.Name).
			buttons(extendButton(b.ID), closeButton(b.ID, "Close "+shortened(b.Name, maxNameShown)))
	}
	return l
}

// warningLetter says that a deadline is near.
func warningMessage(b Bastion, now time.Time) *message {
	left := max(time.Minute, b.Deadline.Sub(now).Round(time.Minute))
	return newMessage("Your bastion closes soon.", fmt.Sprintf("Bastion %s closes in %s", b.Name, inWords(left))).
		say("Connections that are open then are cut.").
		dates("It closes at %s; it can be extended until %s.", b.Deadline, b.LatestDeadline).
		buttons(extendButton(b.ID), closeButton(b.ID, "Close now"))
}

// failedLetter says why a bastion could not be had.
func failedMessage(n Notice) *message {
	b := n.Bastion
	l := newMessage("Your bastion failed.", fmt.Sprintf("Bastion %s failed", b.Name))
	if b.Failure != nil {
		l.say("%s", b.Failure.Message).say("Code: %s", b.Failure.Code)
	}
	if n.Receipt != nil && n.Receipt.Connections > 0 {
		l.list(receiptLines(*n.Receipt, b)...)
	}
	return l.say("For a new one: %s up", slash)
}
