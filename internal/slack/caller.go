package slack

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// slackID is what Slack's ids of workspaces, users and channels look like.
var slackID = regexp.MustCompile(`^[A-Z0-9]{2,32}$`)

// caller is who pressed or typed something, and where, as the signed request says.
// In an organisation of several workspaces the team is the workspace that it was
// done in: the same person is another owner in another workspace.
type caller struct {
	team, user, channel string
	responseURL         string
}

func (c caller) owner() string { return bastion.SlackOwner(c.team, c.user) }

// teamAndUser are the parts of an owner, both empty for somebody who is not Slack's.
func teamAndUser(owner string) (team, user string) {
	team, user, _ = bastion.ParseSlackOwner(owner)
	return team, user
}

func userOf(owner string) string {
	_, user := teamAndUser(owner)
	return user
}

// errStrange: the signed request is not as Slack makes them.
var errStrange = errors.New("the request is signed, but not as Slack sends them")

// check refuses a request of which something does not look as Slack has it.
func (c caller) check() error {
	switch {
	case !slackID.MatchString(c.team):
		return fmt.Errorf("%w: the team's id", errStrange)
	case !slackID.MatchString(c.user):
		return fmt.Errorf("%w: the user's id", errStrange)
	case c.channel != "" && !slackID.MatchString(c.channel):
		return fmt.Errorf("%w: the channel's id", errStrange)
	case !isResponseURL(c.responseURL):
		return fmt.Errorf("%w: the response_url", errStrange)
	}
	return nil
}

// The codes of refusals that a person of Slack reads.
const (
	codeTeam     bastion.Code = "team_not_allowed"
	codeChannel  bastion.Code = "channel_not_allowed"
	codeUser     bastion.Code = "user_not_allowed"
	codeTooMany  bastion.Code = "too_many_commands"
	codeReplayed bastion.Code = "replayed"
	codeCommand  bastion.Code = "command_invalid" // in the log
)

// letIn reports why a caller is not let in, if they are not. A button works
// wherever its message stands, direct messages above all, so the list of channels
// holds for commands only.
func (a *App) letIn(c caller, command bool) *bastion.Error {
	switch {
	case !slices.Contains(a.Teams, c.team):
		return bastion.Errorf(codeTeam, "This workspace is not let in here. Ask the operator of the bastion service to allow the workspace %s.", c.team)
	case len(a.Users) > 0 && !slices.Contains(a.Users, c.user):
		return bastion.Errorf(codeUser, "You are not among the people who are let in here. Ask the operator of the bastion service to allow the user %s.", c.user)
	case command && len(a.Channels) > 0 && !slices.Contains(a.Channels, c.channel):
		return bastion.Errorf(codeChannel, "Bastions are not asked for in this channel. Go to one that your operator has chosen for it, or ask them to allow the channel %s.", c.channel)
	}
	return nil
}

// The limit of commands and buttons for each person.
const (
	maxCommands = 20
	countFor    = time.Minute
)

// admit counts a request against its person's limit and remembers its signature.
// *bastion.Error: it is one too many, or was here before; then nothing is written.
func (a *App) admit(ctx context.Context, owner string, s signed) error {
	key := seenKey(s.signature)
	var seen struct{}
	switch version, err := a.fetch(ctx, key, &seen); {
	case err != nil:
		return err
	case version != 0:
		return errReplayed()
	}
	if err := a.count(ctx, owner); err != nil {
		return err
	}
	err := a.write(ctx, key, 0, seen, s.at.Add(seenFor))
	if errors.Is(err, bastion.ErrConflict) {
		return errReplayed()
	}
	return err
}

func errReplayed() *bastion.Error {
	return bastion.Errorf(codeReplayed, "This request was here before.")
}

func (a *App) count(ctx context.Context, owner string) error {
	now, tooMany := a.Now(), false
	_, err := edit(ctx, a, personKey(owner), func(p *person) (time.Time, error) {
		if now.Sub(p.Since) >= countFor || now.Before(p.Since) {
			p.Since, p.Commands = now, 0
		}
		if tooMany = p.Commands >= maxCommands; tooMany {
			return time.Time{}, errKeep
		}
		p.Commands++
		return time.Time{}, nil
	})
	if err == nil && tooMany {
		return bastion.Errorf(codeTooMany, "That was more than %d commands and buttons within a minute. Wait a minute, then try again; nothing was done for this one.", maxCommands)
	}
	return err
}
