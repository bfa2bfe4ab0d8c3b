package slack

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// This file reads the parts of a command. Each answers how many words it has used,
// or what is wrong with them.

// takeTTL reads a length of time behind skip words.
func (c *Command) takeTTL(words []word, skip int) (int, error) {
	if c.TTL != 0 {
		return 0, &Wrong{Message: "It is said twice for how long.", Try: c.String()}
	}
	length, n := leadingLength(words[skip:])
	switch {
	case n > 0:
		c.TTL = length
		return skip + n, nil
	case len(words) <= skip:
		c.TTL = 2 * time.Hour
		return 0, &Wrong{Message: fmt.Sprintf("It is not said for how long: nothing follows %q.", strings.ToLower(words[0].text)), Try: c.String()}
	}
	given := words[skip].text
	if number.MatchString(given) {
		if c.TTL, n = leadingLength([]word{{text: given + "m"}}); n == 0 {
			c.TTL = 30 * time.Minute
		}
		return 0, &Wrong{Message: fmt.Sprintf("It is not said what the %s are: hours, minutes?", shown(given)), Try: c.String()}
	}
	c.TTL = 2 * time.Hour
	return 0, &Wrong{Message: fmt.Sprintf("%s is not a length of time of a second or more, such as 45m, 2h or 1h30m.", shown(given)), Try: c.String()}
}

// takeName reads a name behind skip words.
func (c *Command) takeName(words []word, skip int) (int, error) {
	if c.Name != "" {
		return 0, &Wrong{Message: "There are two names; a bastion has one.", Try: c.String()}
	}
	if len(words) <= skip {
		c.Name = "web"
		return 0, &Wrong{Message: fmt.Sprintf("The name is missing: nothing follows %q.", strings.ToLower(words[0].text)), Try: c.String()}
	}
	given := words[skip].text
	name := strings.ToLower(given)
	if !bastion.ValidName(name) {
		c.Name = nearName(name)
		return 0, &Wrong{Message: fmt.Sprintf("A name is 1 to 32 of a-z, 0-9 and -, and begins and ends with a letter or digit; %s is not.", shown(given)), Try: c.String()}
	}
	c.Name = name
	return skip + 1, nil
}

// takeBareName reads a name with or without the word before it.
func (c *Command) takeBareName(words []word) (int, error) {
	if words[0].is("name", "named", "called") && len(words) > 1 {
		return c.takeName(words, 1)
	}
	return c.takeName(words, 0)
}

// takeReason reads what follows because.
func (c *Command) takeReason(words []word) (int, error) {
	if c.Reason != "" {
		return 0, &Wrong{Message: "There are two reasons; put what belongs to one in quotes.", Try: c.String()}
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
		return 0, &Wrong{Message: "The reason is missing: nothing follows \"because\".", Try: c.String()}
	case length > bastion.MaxReason:
		c.Reason = shortened(c.Reason, 60)
		return 0, &Wrong{Message: fmt.Sprintf("The reason has %d characters; at most %d are kept.", length, bastion.MaxReason), Try: c.String()}
	}
	return used, nil
}

// strange says what is wrong with a word that does not belong where it is.
func (c *Command) strange(words []word, known ...string) error {
	given := words[0].text
	wrong := &Wrong{Message: fmt.Sprintf("I do not know what %s is to mean here.", shown(given))}
	if _, n := leadingLength(words); n > 0 {
		return &Wrong{Message: "It is said twice for how long.", Try: c.String()}
	}
	rest := append([]word{}, words...)
	if near, ok := nearest(given, known...); ok && len(words) > 1 {
		rest[0] = word{text: near}
	} else if name := strings.ToLower(given); bastion.ValidName(name) && c.Name == "" {
		rest = append([]word{{text: "name"}}, rest...)
	} else {
		wrong.Try = c.String()
		return wrong
	}
	// The words so far are right: with this one put right, the rest may be too.
	if whole, err := parseUp(append(split(c.String())[1:], rest...)); err == nil && c.Reason == "" {
		wrong.Try = whole.String()
	} else {
		wrong.Try = c.String()
	}
	return wrong
}

// nearName makes a name of something that is none.
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

// shown is what somebody typed, short enough to be told back.
func shown(text string) string { return "“" + shortened(oneLine(text), 40) + "”" }

// shortened cuts text to at most so many characters.
func shortened(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}
