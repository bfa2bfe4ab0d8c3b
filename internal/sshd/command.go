package sshd

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

const commandList = "status, extend 30m, close, help"

const help = `status       what this bastion is, and for how long
extend 30m   keep it for at least 30 minutes from now (or 1h30m, …)
close        end it now, for everybody who is connected
help         this text
exit         leave the console; Ctrl-D does too
`

// command is what a console can do.
type command struct {
	name string        // status, extend, close or help
	ttl  time.Duration // of extend
}

// noCommand is what parseCommand answers for a command there is not.
type noCommand struct{ asked string }

func (n noCommand) Error() string {
	return fmt.Sprintf("no command %q here: %s", clip(n.asked), commandList)
}

// parseCommand reads a line. Its errors are sentences for whoever typed it.
func parseCommand(line string) (command, error) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return command{}, noCommand{line}
	}
	name, args := words[0], words[1:]
	switch {
	case (name == "status" || name == "close" || name == "help") && len(args) == 0:
		return command{name: name}, nil
	case name == "extend" && len(args) == 1:
		ttl, err := bastion.ParseTTL(args[0])
		if err != nil {
			return command{}, fmt.Errorf("%q is not a time to extend by; say 30m, or 1h30m", clip(args[0]))
		}
		return command{name: name, ttl: ttl}, nil
	case name == "extend":
		return command{}, errors.New("extend by how long? Say extend 30m, or extend 1h30m")
	}
	return command{}, noCommand{line}
}

// statusText is what status prints.
func statusText(lease bastion.Lease, open int, now time.Time) string {
	idle := "it does not end for lack of use"
	if lease.IdleTimeout > 0 {
		idle = fmt.Sprintf("ends after %s without a connection", bastion.FormatTTL(lease.IdleTimeout))
	}
	left := bastion.FormatTTL(max(0, lease.Deadline.Sub(now)))
	var b strings.Builder
	for _, row := range [][2]string{
		{"bastion", fmt.Sprintf("%s (%s)", clip(lease.Name), clip(lease.BastionID))},
		{"owner", clip(lease.Owner)},
		{"state", string(bastion.Ready)},
		{"source", lease.Source.String()},
		{"deadline", fmt.Sprintf("%s, %s from now", lease.Deadline.UTC().Format(time.RFC3339), left)},
		{"idle", idle},
		{"connections", fmt.Sprintf("%d open", open)},
		{"destinations", joinPrefixes(lease.AllowedDestinations)},
	} {
		fmt.Fprintf(&b, "%-13s%s\n", row[0], row[1])
	}
	return b.String()
}

func joinPrefixes(prefixes []netip.Prefix) string {
	if len(prefixes) == 0 {
		return "none"
	}
	var all []string
	for _, p := range prefixes {
		all = append(all, p.String())
	}
	return strings.Join(all, ", ")
}
