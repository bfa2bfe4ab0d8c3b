package slack

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// slackLink matches Slack's escaped form of links, people and channels:
// <https://x|x>, <mailto:a@b|a@b>, <@U1|ann>, <#C1|general>, <!here>.
var slackLink = regexp.MustCompile(`<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>`)

// entities replaces Slack's three escape sequences.
var entities = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&")

// unescape returns a command as the person typed it, without Slack's escapes.
func unescape(text string) string {
	text = slackLink.ReplaceAllStringFunc(text, func(link string) string {
		parts := slackLink.FindStringSubmatch(link)
		sign, target, label := parts[1], parts[2], parts[3]
		switch {
		case sign == "" && label != "":
			return label
		case sign == "":
			return strings.TrimPrefix(target, "mailto:")
		case label != "":
			return strings.TrimSuffix(sign, "!") + label
		}
		return strings.Replace(sign, "!", "@", 1) + target
	})
	return entities.Replace(text)
}

// word is one word of a command, or several in quotes.
type word struct {
	text   string
	quoted bool
	at     int // index of its first byte in the command
}

// quotes maps the character that opens a quoted word to those that may close it.
// Phones replace plain quotes by pairs of curly ones.
var quotes = map[rune]string{
	'"': `"`, '\'': "'",
	'“': "”“\"", '”': "”\"", '„': "“”\"", '‘': "’‘'", '’': "’'",
}

// split splits a command into words. A quote inside a word, or one that is never closed,
// is an ordinary character.
func split(text string) []word {
	var words []word
	for at := 0; at < len(text); {
		rest := text[at:]
		trimmed := strings.TrimLeftFunc(rest, unicode.IsSpace)
		at += len(rest) - len(trimmed)
		if trimmed == "" {
			break
		}
		w, length := firstWord(trimmed)
		w.at = at
		words = append(words, w)
		at += length
	}
	return words
}

// firstWord returns the word that text begins with, and its length in bytes.
func firstWord(text string) (word, int) {
	first, size := utf8.DecodeRuneInString(text)
	if ends, ok := quotes[first]; ok {
		inside := text[size:]
		if end := strings.IndexAny(inside, ends); end >= 0 {
			_, closing := utf8.DecodeRuneInString(inside[end:])
			length := size + end + closing
			next, _ := utf8.DecodeRuneInString(text[length:])
			if length == len(text) || unicode.IsSpace(next) {
				return word{text: inside[:end], quoted: true}, length
			}
		}
	}
	end := strings.IndexFunc(text, unicode.IsSpace)
	if end < 0 {
		end = len(text)
	}
	return word{text: text[:end]}, end
}

// is reports whether an unquoted word is one of the others, in upper or lower case.
func (w word) is(others ...string) bool {
	for _, other := range others {
		if !w.quoted && strings.EqualFold(w.text, other) {
			return true
		}
	}
	return false
}

// units maps the units of time that people write, without the plural s, to the units of
// bastion.ParseTTL.
var units = map[string]string{
	"s": "s", "sec": "s", "second": "s",
	"m": "m", "min": "m", "minute": "m",
	"h": "h", "hr": "h", "hour": "h",
	"d": "d", "day": "d",
}

var (
	// durations matches a duration of one or more parts: 1h30m, 2 hours, 1.5 h.
	durations = regexp.MustCompile(`^(?:\d{1,9}(?:\.\d{1,3})? ?[a-z]+ ?)+$`)
	part      = regexp.MustCompile(`(\d{1,9}(?:\.\d{1,3})?) ?([a-z]+)`)
	number    = regexp.MustCompile(`^\d{1,9}(?:\.\d{1,3})?$`)
)

// parseDuration parses a duration of at least one second. Its units must go from the
// longest to the shortest, so "2h 3h" is not five hours but an error. For a duration
// that is too long for a time.Duration, it returns the longest one.
func parseDuration(text string) (time.Duration, bool) {
	text = strings.ToLower(text)
	if !durations.MatchString(text) {
		return 0, false
	}
	const order = "dhms"
	var compact strings.Builder
	last := -1
	for _, p := range part.FindAllStringSubmatch(text, -1) {
		unit, ok := units[p[2]]
		if !ok {
			unit, ok = units[strings.TrimSuffix(p[2], "s")]
		}
		at := strings.Index(order, unit)
		if !ok || at <= last {
			return 0, false
		}
		last = at
		compact.WriteString(p[1] + unit)
	}
	ttl, err := bastion.ParseTTL(compact.String())
	var refused *bastion.Error
	if errors.As(err, &refused) && refused.Code == bastion.CodeTTLBeyondCap {
		return math.MaxInt64, true
	}
	return ttl.Truncate(time.Second), err == nil
}

// likeDuration reports whether text looks like a duration: parseDuration accepts it, or it
// consists of digits and a unit of time, such as 0s.
func likeDuration(text string) bool {
	unit := strings.TrimLeft(text, "0123456789.")
	_, ok := parseDuration(text)
	return ok || unit != text && units[unit] != ""
}

// leadingTTL parses the longest duration at the beginning of words, and returns how many
// words it has; 0 if words do not begin with a duration.
func leadingTTL(words []word) (time.Duration, int) {
	const most = 8 // "1 hour 30 minutes 5 seconds" has six words
	for n := min(len(words), most); n > 0; n-- {
		var texts []string
		for _, w := range words[:n] {
			texts = append(texts, w.text)
		}
		if ttl, ok := parseDuration(strings.Join(texts, " ")); ok {
			return ttl, n
		}
	}
	return 0, 0
}

// inWords returns a duration in hours, minutes and seconds, such as "1 hour 30 minutes".
func inWords(d time.Duration) string {
	d = d.Round(time.Second)
	var parts []string
	for _, unit := range []struct {
		name string
		size time.Duration
	}{{"hour", time.Hour}, {"minute", time.Minute}, {"second", time.Second}} {
		if n := int64(d / unit.size); n > 0 {
			parts = append(parts, counted(n, unit.name))
		}
		d %= unit.size
	}
	if len(parts) == 0 {
		return "0 seconds"
	}
	return strings.Join(parts, " ")
}

func counted(n int64, noun string) string {
	text := strconv.FormatInt(n, 10) + " " + noun
	if n != 1 {
		text += "s"
	}
	return text
}

// quoted returns typed text in quotes, cut to 40 characters.
func quoted(text string) string { return "“" + shortened(oneLine(text), 40) + "”" }

// shortened returns the text, cut to at most the given number of characters.
func shortened(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return text
}

// oneLine returns the text in one line: characters that are not printable, or that
// change the direction of writing, become spaces, and several spaces become one.
func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)), " ")
}

// nearest returns the candidate from which the typed word has the fewest typing errors.
// It ignores a candidate if the typed word has more than two typing errors, or as many
// errors as the candidate has letters. It returns false if no candidate is left.
func nearest(typed string, candidates ...string) (string, bool) {
	typed = strings.ToLower(typed)
	best, least := "", 3
	for _, candidate := range candidates {
		errors := typingErrors(typed, candidate)
		if errors < least && errors < len([]rune(candidate)) {
			best, least = candidate, errors
		}
	}
	return best, best != ""
}

// maxTyped is the length of the longest word that typingErrors compares.
const maxTyped = 32

// typingErrors returns the number of letters that are wrong, missing, superfluous, or
// swapped with their neighbour: the Damerau-Levenshtein distance.
func typingErrors(typed, meant string) int {
	a, b := []rune(typed), []rune(meant)
	if len(a) > maxTyped {
		return maxTyped
	}
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
		for j := range b {
			switch {
			case i == 0:
				rows[0][j+1] = j + 1
				continue
			case a[i-1] == b[j]:
				rows[i][j+1] = rows[i-1][j]
			default:
				rows[i][j+1] = 1 + min(rows[i-1][j], rows[i][j], rows[i-1][j+1])
			}
			if i > 1 && j > 0 && a[i-1] == b[j-1] && a[i-2] == b[j] {
				rows[i][j+1] = min(rows[i][j+1], rows[i-2][j-1]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
