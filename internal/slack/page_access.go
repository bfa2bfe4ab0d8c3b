package slack

import (
	"net/netip"
	"regexp"
	"strings"
	"time"
)

// access is how a bastion that is ready is used.
type access struct {
	File     string // what to save Config as
	Config   string
	Connect  string // the command that goes through the bastion
	Console  string // the command that opens its status console; may be empty
	Address  netip.Addr
	Family   string
	Keys     []string
	Deadline time.Time
	Left     time.Duration
}

// ready is the page of a bastion that can be used.
func (p followPage) ready(b Bastion, now time.Time) followPage {
	if !safeName.MatchString(b.Name) || !safeConfig(b.SSHConfig) {
		p = p.refused("What the service answered about the bastion is not what it should be, so it is not shown here. Close the bastion in Slack: /bastion down. Tell your operator.")
		p.Status = "It is not safe to connect to it."
		p.Title, p.Heading = "Do not use this bastion", "Do not use this bastion"
		return p
	}
	p.Title, p.Heading = "Ready: bastion "+b.Name, "Bastion "+b.Name+" is ready"
	p.Status = "It lets you in now."
	file, alias := "bastion-"+b.Name+".conf", "bastion-"+b.Name
	p.Access = &access{
		File: file, Config: b.SSHConfig, Connect: "ssh -F " + file + " -J " + alias + " TARGET",
		Address: p.Address, Family: p.Family, Keys: b.Keys,
		Deadline: b.Deadline, Left: max(0, b.Deadline.Sub(now)),
	}
	if safeCommand.MatchString(b.SSH) {
		p.Access.Console = b.SSH
	}
	return p
}

// People paste what follows into a file that ssh obeys, and into a shell. The
// host key in it was reported by a task. The API has checked it; here it is held
// once more to what these texts can be, because nobody reads what they paste.
var (
	safeName    = regexp.MustCompile(`^[a-z0-9-]{1,32}$`)
	safeCommand = regexp.MustCompile(`^ssh [A-Za-z0-9 '=@:/+._\[\]-]+$`)
	safeLine    = regexp.MustCompile(`^( *(HostName|Port|User|UserKnownHostsFile|GlobalKnownHostsFile|StrictHostKeyChecking|KnownHostsCommand /bin/echo)|Host) [A-Za-z0-9 =@:/+._\[\]-]+$`)
)

// safeConfig reports whether a text is a configuration for ssh that runs nothing
// but echo.
func safeConfig(text string) bool {
	for line := range strings.Lines(text) {
		if !safeLine.MatchString(strings.TrimSuffix(line, "\n")) {
			return false
		}
	}
	return text != ""
}
