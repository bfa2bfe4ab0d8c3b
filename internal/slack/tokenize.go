package slack

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// slackLink is how Slack writes what it takes for a link, a person or a channel,
// if the command is set to escape them: <https://x|x>, <mailto:a@b|a@b>, <@U1|ann>,
// <#C1|general>, <!here>.
var slackLink = regexp.MustCompile(`<([@#!]?)([^<>|]*)(?:\|([^<>]*))?>`)

// entities are the three characters that Slack escapes.
var entities = strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&")

// typed is the text of a command as the person typed it.
func typed(text string) string {
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
	at     int // where it begins in the command
}

// quotes are how a quoted word begins, and how it then ends. Telephones make
// pairs of curly ones of the plain ones that are typed.
var quotes = map[rune]string{
	'"': `"`, '\'': "'",
	'“': "”“\"", '”': "”\"", '„': "“”\"", '‘': "’‘'", '’': "’'",
}

// split takes a command apart. A quote within a word is part of it, and one that
// is never closed too.
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

// firstWord is the word that text begins with, and how many bytes it takes.
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

// is reports whether a word is one of these, however it is written.
func (w word) is(others ...string) bool {
	for _, other := range others {
		if !w.quoted && strings.EqualFold(w.text, other) {
			return true
		}
	}
	return false
}

// oneLine is text with what is no printable character, or would turn the text
// around it, made a space; runs of spaces are one.
func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)), " ")
}

// nearest is the candidate with the fewest typing errors, if they are few.
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

// maxTyped is how long a word may be to be a misspelt one of ours.
const maxTyped = 32

// typingErrors counts the letters that are wrong, missing, too many, or swapped
// with their neighbour: the distance of Damerau and Levenshtein.
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
