package slack

import (
	"context"
	"net/http"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// slash is the app's slash command. The text after it is parsed into a [Command].
const slash = "/bastion"

// Verb is the first word of a command.
type Verb string

// The verbs that the app accepts.
const (
	VerbUp     Verb = "up"
	VerbDown   Verb = "down"
	VerbStatus Verb = "status"
	VerbExtend Verb = "extend"
	VerbKey    Verb = "key"
	VerbHelp   Verb = "help"
)

// commandSpec describes a command. A new command is a new entry in [commands].
type commandSpec struct {
	verb    Verb
	usage   string // without /bastion
	summary string // for the help
	example string // a valid command without /bastion
	// synonyms are words that people may type instead of the verb. The app does not accept
	// them, so that each command has one verb; the reply suggests that verb.
	synonyms []string

	parse func(c *Command, text string, words []word) error
	run   func(a *App, ctx context.Context, r request) (*message, error)
}

// request is a command with its sender.
type request struct {
	caller
	Command
	http *http.Request
}

// commands returns all commands, in the order of the help. It is a function because Go
// refuses a variable that refers to itself: the table contains runHelp, which reads the
// table.
func commands() []commandSpec {
	return []commandSpec{
		{
			verb: VerbKey, usage: "key ssh-ed25519 AAAA…", example: "key ssh-ed25519 AAAA…",
			summary:  "register your public key",
			synonyms: []string{"pubkey", "publickey", "keys"},
			parse:    (*Command).parseKey, run: (*App).runKey,
		},
		{
			verb: VerbUp, usage: "up [for 2h] [name web] [because …]", example: "up for 2h",
			summary:  "get a link that starts a bastion",
			synonyms: []string{"start", "open", "create", "new", "request", "launch"},
			parse:    (*Command).parseUp, run: (*App).runUp,
		},
		{
			verb: VerbStatus, usage: "status", example: "status",
			summary:  "show your bastions and how to connect",
			synonyms: []string{"list", "ls", "show", "get", "info"},
			parse:    (*Command).parseNothing, run: (*App).runLater,
		},
		{
			verb: VerbExtend, usage: "extend 30m [web]", example: "extend 30m",
			summary:  "keep your bastion open for at least that long from now; if you have several, give the name",
			synonyms: []string{"renew", "prolong", "more", "longer"},
			parse:    (*Command).parseExtend, run: (*App).runLater,
		},
		{
			verb: VerbDown, usage: "down [web]", example: "down",
			summary:  "close your bastion; if you have several, give the name",
			synonyms: []string{"stop", "close", "end", "delete", "destroy", "kill"},
			parse:    (*Command).parseDown, run: (*App).runLater,
		},
		{
			verb: VerbHelp, usage: "help", example: "help",
			summary:  "show this help",
			synonyms: []string{"?", "usage"},
			parse:    (*Command).parseNothing, run: (*App).runHelp,
		},
	}
}

func specOf(verb Verb) commandSpec {
	for _, spec := range commands() {
		if spec.verb == verb {
			return spec
		}
	}
	return commandSpec{}
}

// withinCap returns an error if the command's duration exceeds MaxTTL.
func (a *App) withinCap(c Command) error {
	if c.TTL <= a.MaxTTL {
		return nil
	}
	c.TTL = a.MaxTTL
	return c.errorf("Bastions can run for at most %s.", inWords(a.MaxTTL))
}

func (a *App) runHelp(context.Context, request) (*message, error) { return helpMessage(), nil }

// runLater enqueues the job of down, extend or status. The job may take longer than Slack
// waits for a reply.
func (a *App) runLater(ctx context.Context, r request) (*message, error) {
	job := Job{
		Action: JobAction(r.Verb), // these verbs are also actions of jobs
		Owner:  r.owner(), ResponseURL: r.responseURL, Name: r.Name, TTL: r.TTL, At: a.Now(),
	}
	return workingMessage(job), a.enqueue(ctx, job)
}

// runKey stores a person's key. Later start links use it.
func (a *App) runKey(ctx context.Context, r request) (*message, error) {
	if err := a.saveKey(ctx, r.owner(), r.Key); err != nil {
		return nil, err
	}
	return keyMessage(r.Key), nil
}

func (a *App) saveKey(ctx context.Context, owner string, key bastion.Key) error {
	_, err := edit(ctx, a, personKey(owner), func(p *person) (time.Time, error) {
		if p.Key == string(key) {
			return time.Time{}, errKeep
		}
		p.Key = string(key)
		return time.Time{}, nil
	})
	return err
}

// runUp replies with a start link. Slack's servers make the request, so only the page
// of the link sees the person's address.
func (a *App) runUp(ctx context.Context, r request) (*message, error) {
	if _, err := a.Credentials(ctx, r.team); err != nil {
		a.Log.ErrorContext(ctx, "bot token not available", "team", r.team, "cause", err.Error())
		return nil, bastion.Errorf(codeNoToken, "The service can't read the bot token of this workspace, so the messages about your bastion couldn't reach you. Ask the operator of the bastion service to check the token of %s.", r.team)
	}
	var p person
	if _, err := a.fetch(ctx, personKey(r.owner()), &p); err != nil {
		return nil, err
	}
	if p.Key == "" {
		return noKeyMessage(), nil
	}
	link := startLink{
		Owner: r.owner(), UserName: r.userName, TeamDomain: r.teamDomain,
		Name: r.Name, Key: p.Key, TTL: r.TTL, Reason: r.Reason, ResponseURL: r.responseURL,
	}
	if link.Name == "" {
		link.Name = "default"
	}
	if link.TTL == 0 {
		link.TTL = min(a.DefaultTTL, a.MaxTTL)
	}
	token, err := a.issueStartLink(ctx, link)
	if err != nil {
		return nil, err
	}
	link.ExpiresAt = a.Now().Add(startLinkLife)
	return linkMessage(link, hashOf(token), a.startLinkURL(r.http, token)), nil
}
