package slack

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/api"
	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// This file has the direct messages.

// statusMessage shows the current state of a bastion. The app edits the message when the
// state changes.
func statusMessage(b Bastion) *message {
	m := &message{notification: "Your bastion: " + stateName(b.State) + "."}
	if !b.IsOpen() {
		m.title(stateTitle(b))
		switch {
		case b.IsDelayed():
			m.delay(b).paragraph("You'll get a receipt here once everything is removed.")
		case b.State == bastion.Closing:
			m.paragraph("It no longer accepts connections. You'll get a receipt here once everything is removed, which can take AWS up to 15 minutes.")
		}
		return m
	}
	return m.title(stateTitle(b)).delay(b).list(details(b)...).openUntil(b, "Close bastion")
}

// stateName returns the name of a known state, and "changed" for any other text, because
// Slack parses markup in a notification.
func stateName(state bastion.State) string {
	switch state {
	case bastion.Starting, bastion.Ready, bastion.Closing, bastion.Closed, bastion.Failed:
		return string(state)
	}
	return "changed"
}

// readyMessage says how to connect. It has no deadline and nothing else that may change
// while the bastion is ready.
func readyMessage(b Bastion) *message {
	return newMessage("Your bastion is ready.", fmt.Sprintf("Bastion %s is ready for %s", b.Name, addressOnly(b.Source))).connecting(b)
}

// keyAddedMessage says that keys were added to a bastion.
func keyAddedMessage(b Bastion, added []string) *message {
	return newMessage("A key was added to your bastion.", "Bastion "+b.Name+" accepts another key").newKeys(b, added)
}

// newKeys adds a paragraph for each key that was added to a bastion, and the buttons of
// the bastion.
func (m *message) newKeys(b Bastion, keys []string) *message {
	for _, key := range keys {
		m.paragraph("The key %s was added. It is accepted from %s. If you didn't add it, close the bastion now: a person with this key can log in.", key, addressesOf(b, key))
	}
	return m.bastionButtons(b, "Close bastion")
}

// warningMessage says that a deadline is near.
func warningMessage(b Bastion, now time.Time) *message {
	left := max(time.Minute, b.Deadline.Sub(now).Round(time.Minute))
	return newMessage("Your bastion closes soon.", fmt.Sprintf("Bastion %s closes in %s", b.Name, inWords(left))).
		paragraph("Open connections will be dropped.").
		dates("It closes %s. You can extend it until %s.", b.Deadline, b.LatestDeadline).
		bastionButtons(b, "Close bastion")
}

// endMessage returns the message for the end of a bastion: its failure or its receipt.
func endMessage(n Notice) *message {
	if n.Bastion.State == bastion.Failed {
		return failedMessage(n)
	}
	return receiptMessage(n)
}

// failedMessage says why a bastion failed, and how it was used if it was ready before.
func failedMessage(n Notice) *message {
	b := n.Bastion
	m := newMessage("Your bastion failed.", fmt.Sprintf("Bastion %s failed", b.Name))
	if b.Failure != nil {
		m.paragraph("%s", b.Failure.Message).paragraph("Code: %s", b.Failure.Code)
	}
	if n.Receipt != nil && n.Receipt.Connections > 0 {
		m.list(receiptLines(*n.Receipt, b)...)
	}
	return m.paragraph("Start another with %s up", slash)
}

// receiptMessage says that a bastion is closed and why, and how it was used.
func receiptMessage(n Notice) *message {
	b := n.Bastion
	m := newMessage("Your bastion is closed.", fmt.Sprintf("Bastion %s is closed", b.Name))
	if b.Ended != nil {
		m.paragraph("%s", cmp.Or(api.EndSentence(b.Ended.Reason), "It no longer accepts connections."))
	}
	if n.Receipt == nil || n.Receipt.StartedAt.IsZero() {
		m.paragraph("It never ran, so there is no usage to report.")
	} else {
		m.list(receiptLines(*n.Receipt, b)...)
	}
	return m.paragraph("Start another with %s up", slash)
}

// The cost of a bastion while it runs, from the list prices of us-east-1 per hour:
// $0.03238 for one vCPU (ARM), $0.00356 for one GB and $0.005 for a public IPv4 address;
// see https://aws.amazon.com/fargate/pricing/ and https://aws.amazon.com/vpc/pricing/.
// AWS charges at least one minute.
const (
	dollarsPerHour = 0.25*0.03238 + 0.5*0.00356 + 0.005
	leastCharged   = time.Minute
)

func receiptLines(r Receipt, b Bastion) []string {
	ran := max(0, r.EndedAt.Sub(r.StartedAt))
	lines := []string{
		"Ran for: " + inWords(ran),
		"From: " + cmp.Or(addresses(b.Sources), addressOnly(b.Source)),
		fmt.Sprintf("Usage: %s, %s, %s", counted(int64(r.Connections), "login"), counted(int64(r.Forwards), "forwarded connection"), counted(int64(r.Refusals), "refused request")),
		"Destinations: " + destinations(r),
		fmt.Sprintf("Traffic: %s from you, %s to you", size(r.BytesIn), size(r.BytesOut)),
		fmt.Sprintf("Cost: about $%.4f, at us-east-1's list prices for 0.25 vCPU (ARM), 0.5 GB and a public IPv4 address; traffic, logs and requests not included", dollars(ran)),
	}
	if b.Reason != "" {
		lines = append(lines, "Reason: "+b.Reason)
	}
	return lines
}

func dollars(ran time.Duration) float64 {
	return max(ran, leastCharged).Hours() * dollarsPerHour
}

// maxDestinations is the largest number of destinations that a message names.
const maxDestinations = 10

// destinations returns the first destinations, and the number of the others.
func destinations(r Receipt) string {
	if len(r.Destinations) == 0 && r.Unnamed == 0 {
		return "none"
	}
	named := r.Destinations[:min(len(r.Destinations), maxDestinations)]
	var parts []string
	for _, destination := range named {
		parts = append(parts, shortened(oneLine(destination), 60))
	}
	text := strings.Join(parts, ", ")
	if more := len(r.Destinations) - len(named) + r.Unnamed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return strings.TrimPrefix(text, " and ")
}

// size returns a number of bytes with a unit, such as "6.8 GB".
func size(n int64) string {
	if n < 1000 {
		return counted(n, "byte")
	}
	value, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		if value /= 1000; value < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}
