package slack

import (
	"fmt"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// Verb says what a command does.
type Verb string

// The verbs.
const (
	VerbUp     Verb = "up"
	VerbDown   Verb = "down"
	VerbStatus Verb = "status"
	VerbExtend Verb = "extend"
	VerbKey    Verb = "key"
	VerbHelp   Verb = "help"
)

// Command is what somebody typed behind /bastion.
type Command struct {
	Verb   Verb
	Name   string        // of up, down and extend; empty: not given
	TTL    time.Duration // of up and extend; 0: not given
	Reason string        // of up
	Key    bastion.Key   // of key
}

// Wrong is a command that is none.
type Wrong struct {
	Message string // what is wrong; it may quote what was typed
	Try     string // the nearest right command, without /bastion
}

func (w *Wrong) Error() string { return w.Message }

// examples are right commands, for those who typed another.
var examples = map[Verb]string{
	VerbUp: "up for 2h", VerbDown: "down", VerbStatus: "status",
	VerbExtend: "extend 30m", VerbKey: "key ssh-ed25519 AAAA…", VerbHelp: "help",
}

// synonyms are what people may call our verbs. They are not taken, because more
// than one word for one thing is more to explain; they are understood well enough
// to say the right one.
var synonyms = map[string]Verb{
	"start": VerbUp, "open": VerbUp, "create": VerbUp, "new": VerbUp, "request": VerbUp, "launch": VerbUp,
	"stop": VerbDown, "close": VerbDown, "end": VerbDown, "delete": VerbDown, "destroy": VerbDown, "kill": VerbDown,
	"list": VerbStatus, "ls": VerbStatus, "show": VerbStatus, "get": VerbStatus, "info": VerbStatus,
	"renew": VerbExtend, "prolong": VerbExtend, "more": VerbExtend, "longer": VerbExtend,
	"pubkey": VerbKey, "publickey": VerbKey, "keys": VerbKey, "?": VerbHelp, "usage": VerbHelp,
}

// ParseCommand reads what was typed behind /bastion, as Slack sends it.
//
// *Wrong: it is none. *bastion.Error: what was given as a key is not one that a
// bastion lets in, or a private key stands somewhere.
func ParseCommand(text string) (Command, error) {
	if publickey.LooksPrivate([]byte(text)) {
		return Command{}, publickey.PrivateKeyError()
	}
	text = typed(text)
	if publickey.LooksPrivate([]byte(text)) {
		return Command{}, publickey.PrivateKeyError()
	}
	words := split(text)
	if len(words) == 0 {
		return Command{Verb: VerbHelp}, nil
	}
	verb := Verb(strings.ToLower(words[0].text))
	if _, ok := examples[verb]; !ok {
		return Command{}, noVerb(text, words)
	}
	return parseAs(verb, text, words[1:])
}

func parseAs(verb Verb, text string, words []word) (Command, error) {
	switch verb {
	case VerbUp:
		return parseUp(words)
	case VerbDown:
		return parseDown(words)
	case VerbExtend:
		return parseExtend(words)
	case VerbKey:
		return parseKey(text, words)
	}
	if len(words) > 0 {
		return Command{}, &Wrong{
			Message: fmt.Sprintf("Nothing belongs behind %q; what is %s?", verb, shown(words[0].text)),
			Try:     string(verb),
		}
	}
	return Command{Verb: verb}, nil
}

// noVerb says what somebody meant who used none of the verbs.
func noVerb(text string, words []word) error {
	if _, err := publickey.Parse(text); err == nil {
		return &Wrong{Message: "That is a public key. To have it remembered, say so in front of it.", Try: examples[VerbKey]}
	}
	first := words[0].text
	verb, ok := synonyms[strings.ToLower(first)]
	if !ok {
		var near string
		if near, ok = nearest(first, "up", "down", "status", "extend", "key", "help"); ok {
			verb = Verb(near)
		}
	}
	if !ok {
		return &Wrong{Message: fmt.Sprintf("There is no command %s.", shown(first)), Try: examples[VerbHelp]}
	}
	return &Wrong{Message: fmt.Sprintf("There is no command %s.", shown(first)), Try: corrected(verb, text, words[1:])}
}

// corrected is the command with the right verb, if the rest of it is right.
func corrected(verb Verb, text string, words []word) string {
	if verb != VerbKey {
		if c, err := parseAs(verb, text, words); err == nil {
			return c.String()
		}
	}
	return examples[verb]
}

// String is the command as it is typed, in one order, without its key.
func (c Command) String() string {
	parts := []string{string(c.Verb)}
	switch {
	case c.TTL > 0 && c.Verb == VerbUp:
		parts = append(parts, "for", bastion.FormatTTL(c.TTL))
	case c.TTL > 0:
		parts = append(parts, bastion.FormatTTL(c.TTL))
	}
	switch {
	case c.Name != "" && c.Verb == VerbUp:
		parts = append(parts, "name", c.Name)
	case c.Name != "":
		parts = append(parts, c.Name)
	}
	if c.Reason != "" {
		parts = append(parts, "because", c.Reason)
	}
	return strings.Join(parts, " ")
}

// parseUp reads [for 2h] [name N] [because …] in any order. What follows because
// goes to the end, unless it is in quotes.
func parseUp(words []word) (Command, error) {
	c := Command{Verb: VerbUp}
	for len(words) > 0 {
		used, err := 0, error(nil)
		switch {
		case words[0].is("for"):
			used, err = c.takeTTL(words, 1)
		case words[0].is("name", "named", "called"):
			used, err = c.takeName(words, 1)
		case words[0].is("because"):
			used, err = c.takeReason(words)
		default:
			if length, n := leadingLength(words); n > 0 && c.TTL == 0 {
				c.TTL, used = length, n
			} else {
				err = c.strange(words, "for", "name", "because")
			}
		}
		if err != nil {
			return Command{}, err
		}
		words = words[used:]
	}
	return c, nil
}

// parseDown reads [name], with or without the word before it.
func parseDown(words []word) (Command, error) {
	c := Command{Verb: VerbDown}
	for len(words) > 0 {
		used, err := c.takeBareName(words)
		if err != nil {
			return Command{}, err
		}
		words = words[used:]
	}
	return c, nil
}

// parseExtend reads 30m [name] in any order. A word that is a length of time is
// taken for one; a name of that look needs the word name before it.
func parseExtend(words []word) (Command, error) {
	c := Command{Verb: VerbExtend}
	for len(words) > 0 {
		used, err := 0, error(nil)
		length, n := leadingLength(words)
		switch {
		case n > 0 && c.TTL == 0:
			c.TTL, used = length, n
		case n > 0:
			err = &Wrong{Message: fmt.Sprintf("It is said twice for how long; a name like %s needs the word name before it.", shown(words[0].text)), Try: c.String()}
		case words[0].is("for", "by"):
			used, err = c.takeTTL(words, 1)
		case number.MatchString(words[0].text) && c.TTL == 0:
			used, err = c.takeTTL(words, 0)
		default:
			used, err = c.takeBareName(words)
		}
		if err != nil {
			return Command{}, err
		}
		words = words[used:]
	}
	if c.TTL == 0 {
		c.TTL = 30 * time.Minute
		return Command{}, &Wrong{Message: "It is not said for how long.", Try: c.String()}
	}
	return c, nil
}

// parseKey reads everything behind the verb as one public key.
func parseKey(text string, words []word) (Command, error) {
	if len(words) == 0 {
		return Command{}, &Wrong{Message: "The key itself is missing: it is the line in your .pub file.", Try: examples[VerbKey]}
	}
	line := text[words[0].at:]
	if words[0].quoted && len(words) == 1 {
		line = words[0].text
	}
	key, err := publickey.Parse(line)
	if err != nil {
		return Command{}, err
	}
	return Command{Verb: VerbKey, Key: key}, nil
}
