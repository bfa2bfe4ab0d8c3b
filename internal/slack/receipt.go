package slack

import (
	"fmt"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// What a bastion costs while it runs, in dollars an hour: the list prices of
// us-east-1 for 0.25 vCPU (ARM) at $0.03238 for a whole one, 0.5 GB at $0.00356 for
// a whole one, and a public IPv4 address at $0.005; see
// https://aws.amazon.com/fargate/pricing/ and https://aws.amazon.com/vpc/pricing/.
// A minute is the least that is charged.
const (
	dollarsPerHour = 0.25*0.03238 + 0.5*0.00356 + 0.005
	leastCharged   = time.Minute
)

// endings say why a bastion ended, behind "it is closed:".
var endings = map[bastion.EndReason]string{
	bastion.EndClosed:   "it was asked to",
	bastion.EndConsole:  "its console was asked to",
	bastion.EndDeadline: "its time was up",
	bastion.EndIdle:     "nobody used it",
	bastion.EndTask:     "it ended by itself",
}

// receiptLetter says that a bastion has ended, and what it was used for.
func receiptMessage(n Notice) *message {
	b := n.Bastion
	title := fmt.Sprintf("Bastion %s is closed", b.Name)
	if b.Ended != nil && endings[b.Ended.Reason] != "" {
		title += ": " + endings[b.Ended.Reason]
	}
	l := newMessage("Your bastion is closed.", title)
	if n.Receipt == nil || n.Receipt.StartedAt.IsZero() {
		l.say("It never ran, so there is nothing to account for.")
	} else {
		l.list(receiptLines(*n.Receipt, b)...)
	}
	return l.say("For a new one: %s up", slash)
}

// maxReached is how many destinations a letter names.
const maxReached = 10

func receiptLines(r Receipt, b Bastion) []string {
	ran := max(0, r.EndedAt.Sub(r.StartedAt))
	lines := []string{
		"Ran: " + inWords(ran),
		"From: " + addressOnly(b.Source),
		fmt.Sprintf("Used: %s, %s through it, %s refused", counted(int64(r.Connections), "login"), counted(int64(r.Forwards), "connection"), counted(int64(r.Refusals), "request")),
		"Reached: " + reached(r),
		fmt.Sprintf("Bytes: %s from you, %s to you", size(r.BytesIn), size(r.BytesOut)),
		fmt.Sprintf("Cost: about $%.4f, at us-east-1's list prices for 0.25 vCPU (ARM), 0.5 GB and a public IPv4 address while it ran; traffic, logs and requests not counted", dollars(ran)),
	}
	if b.Reason != "" {
		lines = append(lines, "Because: "+b.Reason)
	}
	return lines
}

func dollars(ran time.Duration) float64 {
	return max(ran, leastCharged).Hours() * dollarsPerHour
}

// reached names the first destinations, and counts the rest.
func reached(r Receipt) string {
	if len(r.Destinations) == 0 && r.Unnamed == 0 {
		return "nothing"
	}
	named := r.Destinations[:min(len(r.Destinations), maxReached)]
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

// size is a number of bytes as people say it.
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
