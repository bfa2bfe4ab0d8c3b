package slack

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// Command is a parsed command: the text that a person typed after /bastion.
type Command struct {
	Verb   Verb
	Name   string        // for up, down and extend; empty if the command has no name
	TTL    time.Duration // for up and extend; 0 if the command has no duration
	Reason string        // for up
	Key    bastion.Key   // for key
}

// CommandError is the error for a text that is not a valid command.
type CommandError struct {
	Message string   // the reason; it may quote the typed text
	Try     []string // similar valid commands, without /bastion
	Verb    Verb     // the verb that the person probably meant
}

func (w *CommandError) Error() string { return w.Message }

// errorf returns an error with a message; its Try suggests c as a valid command. If a part
// of c is wrong or missing, the caller first sets that part to an example value.
func (c *Command) errorf(format string, args ...any) *CommandError {
	return &CommandError{Message: fmt.Sprintf(format, args...), Try: []string{c.String()}, Verb: c.Verb}
}

// withExample returns an error that suggests the example of a verb.
func withExample(verb Verb, message string) *CommandError {
	return &CommandError{Message: message, Try: []string{specOf(verb).example}, Verb: verb}
}

// ParseCommand parses the text after /bastion, as Slack sends it.
//
// It returns a *CommandError if the text is not a valid command, and a *bastion.Error
// if a bastion would not accept the key or if the text contains a private key.
func ParseCommand(text string) (Command, error) {
	if publickey.LooksPrivate([]byte(text)) {
		return Command{}, publickey.PrivateKeyError()
	}
	text = unescape(text)
	if publickey.LooksPrivate([]byte(text)) {
		return Command{}, publickey.PrivateKeyError()
	}
	words := split(text)
	if len(words) == 0 {
		return Command{Verb: VerbHelp}, nil
	}
	verb := Verb(strings.ToLower(words[0].text))
	if specOf(verb).verb == "" {
		return Command{}, unknownVerb(text, words)
	}
	return parseAs(verb, text, words[1:])
}

func parseAs(verb Verb, text string, words []word) (Command, error) {
	c := Command{Verb: verb}
	if err := specOf(verb).parse(&c, text, words); err != nil {
		return Command{}, err
	}
	return c, nil
}

// unknownVerb returns the error for an unknown verb. It suggests the command that the
// person probably meant.
func unknownVerb(text string, words []word) error {
	if _, err := publickey.Parse(text); err == nil {
		return withExample(VerbKey, "That looks like a public key. To register it:")
	}
	verb := verbLike(words[0].text)
	wrong := withExample(verb, fmt.Sprintf("There is no command %s.", quoted(words[0].text)))
	if c, err := parseAs(verb, text, words[1:]); err == nil && verb != VerbKey { // c.String() leaves out the key, so it is not a valid key command
		wrong.Try = []string{c.String()}
	}
	return wrong
}

// verbLike returns the verb that has the word as a synonym, or is spelt almost like it. If
// there is none, it returns VerbHelp.
func verbLike(typed string) Verb {
	var verbs []string
	for _, spec := range commands() {
		for _, synonym := range spec.synonyms {
			if strings.EqualFold(typed, synonym) {
				return spec.verb
			}
		}
		verbs = append(verbs, string(spec.verb))
	}
	if near, ok := nearest(typed, verbs...); ok {
		return Verb(near)
	}
	return VerbHelp
}

// String returns the command as a person would type it, without its key. The parts
// always have the same order.
func (c Command) String() string {
	parts := []string{string(c.Verb)}
	switch {
	case c.TTL > 0 && c.Verb == VerbUp:
		parts = append(parts, "for", bastion.FormatTTL(c.TTL))
	case c.TTL > 0:
		parts = append(parts, bastion.FormatTTL(c.TTL))
	}
	switch {
	case c.Name != "" && (c.Verb == VerbUp || reserved(c.Name) || c.Verb == VerbExtend && likeDuration(c.Name)):
		parts = append(parts, "name", c.Name)
	case c.Name != "":
		parts = append(parts, c.Name)
	}
	if c.Reason != "" {
		parts = append(parts, "because", c.Reason)
	}
	return strings.Join(parts, " ")
}

// parseUp parses [for 2h] [name N] [because …] in any order. The reason is the quoted
// text after “because”; without quotes, it is everything after “because”.
func (c *Command) parseUp(_ string, words []word) error {
	return c.parseWords(words, func(words []word) (int, error) {
		switch {
		case words[0].is("for"):
			return c.takeTTL(words, 1)
		case words[0].is(nameWords...):
			return c.takeName(words, 1)
		case words[0].is("because"):
			return c.takeReason(words)
		}
		if _, n := leadingTTL(words); n > 0 {
			return c.takeTTL(words, 0)
		}
		return 0, c.unexpected(words)
	})
}

// parseDown parses [name], with or without the word “name” before it.
func (c *Command) parseDown(_ string, words []word) error {
	return c.parseWords(words, c.takeBareName)
}

// parseExtend parses 30m [name] in any order. A word that looks like a duration is
// parsed as one, unless the word “name” is before it.
func (c *Command) parseExtend(_ string, words []word) error {
	err := c.parseWords(words, func(words []word) (int, error) {
		_, n := leadingTTL(words)
		switch {
		case n > 0 && c.TTL > 0:
			return 0, c.errorf("The duration is given twice. If %s is a name, put “name” before it.", quoted(words[0].text))
		case words[0].is("for", "by"):
			return c.takeTTL(words, 1)
		case n > 0, number.MatchString(words[0].text) && c.TTL == 0:
			return c.takeTTL(words, 0)
		}
		return c.takeBareName(words)
	})
	if err != nil || c.TTL > 0 {
		return err
	}
	given := c.Name
	c.TTL = 30 * time.Minute
	if !likeDuration(given) {
		return c.errorf("The duration is missing.")
	}
	c.Name = ""
	return c.invalidTTL(given)
}

// parseKey parses everything after the verb as one public key.
func (c *Command) parseKey(text string, words []word) error {
	if len(words) == 0 {
		return withExample(VerbKey, "The key is missing. It is the line in your .pub file.")
	}
	line := text[words[0].at:]
	if words[0].quoted && len(words) == 1 {
		line = words[0].text
	}
	key, err := publickey.Parse(line)
	c.Key = key
	return err
}

func (c *Command) parseNothing(_ string, words []word) error {
	if len(words) > 0 {
		return c.errorf("“%s” takes no arguments.", c.Verb)
	}
	return nil
}

// parseWords parses all words. It calls take with the words that are left; take parses
// the first ones and returns their number.
func (c *Command) parseWords(words []word, take func([]word) (int, error)) error {
	for len(words) > 0 {
		used, err := take(words)
		if err != nil {
			return err
		}
		words = words[used:]
	}
	return nil
}

// nameWords are the words that may precede a name.
var nameWords = []string{"name", "named", "called"}

// reserved reports whether a name is also a keyword that may follow a verb.
func reserved(name string) bool {
	return word{text: name}.is("because", "for", "by")
}

// takeTTL skips the given number of words and parses the duration after them.
func (c *Command) takeTTL(words []word, skip int) (int, error) {
	if c.TTL != 0 {
		return 0, c.errorf("The duration is given twice.")
	}
	ttl, n := leadingTTL(words[skip:])
	if n > 0 {
		c.TTL = ttl
		return skip + n, nil
	}
	if len(words) <= skip {
		c.TTL = 2 * time.Hour
		return 0, c.errorf("The duration is missing: nothing follows “%s”.", strings.ToLower(words[0].text))
	}
	given := words[skip].text
	if !number.MatchString(given) {
		c.TTL = 2 * time.Hour
		return 0, c.invalidTTL(given)
	}
	wrong := &CommandError{Message: fmt.Sprintf("%s has no unit. Add one, such as %[2]sh or %[2]sm.", quoted(given), shortened(given, 12)), Verb: c.Verb}
	for _, unit := range []string{"h", "m"} {
		try := *c
		if try.TTL, n = leadingTTL([]word{{text: given + unit}}); n > 0 {
			wrong.Try = append(wrong.Try, try.String())
		}
	}
	if len(wrong.Try) == 0 {
		c.TTL = 30 * time.Minute
		wrong.Try = []string{c.String()}
	}
	return 0, wrong
}

func (c *Command) invalidTTL(given string) *CommandError {
	return c.errorf("%s is not a valid duration. Valid durations are, for example, 45m, 2h, 1h30m and 2d.", quoted(given))
}

// takeName skips the given number of words and parses the name after them.
func (c *Command) takeName(words []word, skip int) (int, error) {
	if c.Name != "" {
		return 0, c.errorf("Give only one name.")
	}
	if len(words) <= skip {
		c.Name = "web"
		return 0, c.errorf("The name is missing: nothing follows “%s”.", strings.ToLower(words[0].text))
	}
	given := words[skip].text
	name := strings.ToLower(given)
	if !bastion.ValidName(name) {
		c.Name = nearName(name)
		return 0, c.errorf("%s is not a valid name. A name has 1 to 32 characters from a-z, 0-9 and -, and begins and ends with a letter or digit.", quoted(given))
	}
	c.Name = name
	return skip + 1, nil
}

// takeBareName parses a name with or without the word “name” before it.
func (c *Command) takeBareName(words []word) (int, error) {
	if words[0].is(nameWords...) && len(words) > 1 {
		return c.takeName(words, 1)
	}
	if !words[0].quoted && reserved(words[0].text) && len(words) > 1 {
		return 0, c.errorf("“%s” takes no “%s”.", c.Verb, strings.ToLower(words[0].text))
	}
	return c.takeName(words, 0)
}

// takeReason parses the word “because” and the reason after it.
func (c *Command) takeReason(words []word) (int, error) {
	if c.Reason != "" {
		return 0, c.errorf("There are two reasons. Put the whole reason in quotes.")
	}
	used := len(words)
	if len(words) > 1 && words[1].quoted {
		used = 2
	}
	var texts []string
	for _, w := range words[1:used] {
		texts = append(texts, w.text)
	}
	c.Reason = oneLine(strings.Join(texts, " "))
	switch length := utf8.RuneCountInString(c.Reason); {
	case length == 0:
		c.Reason = "…"
		return 0, c.errorf("The reason is missing: nothing follows “because”.")
	case length > bastion.MaxReason:
		c.Reason = shortened(c.Reason, 60)
		return 0, c.errorf("The reason has %d characters; the limit is %d.", length, bastion.MaxReason)
	}
	return used, nil
}

// unexpected returns the error for a word that parseUp does not expect.
func (c *Command) unexpected(words []word) error {
	given := words[0].text
	wrong := c.errorf("I don't understand %s.", quoted(given))
	if c.Reason != "" {
		return wrong
	}
	rest := append([]word{}, words...)
	if near, ok := nearest(given, "for", "name", "because"); ok && len(words) > 1 {
		rest[0] = word{text: near}
	} else if bastion.ValidName(strings.ToLower(given)) && c.Name == "" {
		rest = append([]word{{text: "name"}}, rest...)
	} else {
		return wrong
	}
	// The words before this one are valid. If the corrected rest is also valid, suggest the
	// whole corrected command.
	if whole, err := parseAs(VerbUp, "", append(split(c.String())[1:], rest...)); err == nil {
		wrong.Try = []string{whole.String()}
	}
	return wrong
}

// nearName returns a valid name that is similar to an invalid one.
func nearName(given string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, given)
	name = strings.Trim(name[:min(len(name), 32)], "-")
	if !bastion.ValidName(name) {
		return "web"
	}
	return name
}
