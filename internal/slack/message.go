package slack

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	slackgo "github.com/slack-go/slack"
)

// letter is what a person reads in Slack. Everything that somebody may have
// written, or that a task reported, stands in text elements of rich_text blocks:
// Slack reads no markup, link, mention or emoji there. Slack's markup is read in
// dates only, which are ours.
type message struct {
	notification string // our own words only: Slack reads markup in it
	blocks       []slackgo.Block
}

// Slack's limits; see the test that holds every letter to them.
const (
	maxText  = 3000
	maxShown = 1000 // characters of somebody's words, such as a problem's sentence
)

// newLetter begins a letter with a line in bold letters.
func newMessage(notification, title string) *message {
	return &message{notification: notification, blocks: []slackgo.Block{
		richText(slackgo.NewRichTextSection(bold(plain(title, maxShown)))),
	}}
}

// say adds a paragraph.
func (l *message) say(format string, args ...any) *message {
	l.blocks = append(l.blocks, richText(slackgo.NewRichTextSection(text(plain(fmt.Sprintf(format, args...), maxShown)))))
	return l
}

// code adds lines to be copied as they are. What is too long for Slack is not cut
// off, for half of it would be wrong.
func (l *message) code(lines string) *message {
	lines = strings.TrimRight(lines, "\n")
	if len([]rune(lines)) > maxText {
		return l.say("What belongs here is too long for Slack.")
	}
	l.blocks = append(l.blocks, richText(&slackgo.RichTextPreformatted{
		Type:     slackgo.RTEPreformatted,
		Elements: []slackgo.RichTextSectionElement{text(printableLines(lines))},
	}))
	return l
}

// list adds lines that belong together, each with a bullet.
func (l *message) list(lines ...string) *message {
	list := slackgo.NewRichTextList(slackgo.RTEListBullet, 0)
	for _, line := range lines {
		list.Elements = append(list.Elements, slackgo.NewRichTextSection(text(plain(line, maxShown))))
	}
	l.blocks = append(l.blocks, richText(list))
	return l
}

// dates adds a line of our own words in which each %s is a time. Every reader sees
// it in their own time zone; see
// https://docs.slack.dev/messaging/formatting-message-text/#date-formatting.
func (l *message) dates(format string, times ...time.Time) *message {
	var args []any
	for _, t := range times {
		args = append(args, fmt.Sprintf("<!date^%d^{date_short_pretty} at {time}|%s>", t.Unix(), t.UTC().Format("2006-01-02 15:04 UTC")))
	}
	line := slackgo.NewTextBlockObject(slackgo.MarkdownType, fmt.Sprintf(format, args...), false, true)
	l.blocks = append(l.blocks, slackgo.NewSectionBlock(line, nil, nil))
	return l
}

// buttons adds a row of buttons.
func (l *message) buttons(buttons ...*slackgo.ButtonBlockElement) *message {
	var elements []slackgo.BlockElement
	for _, b := range buttons {
		elements = append(elements, b)
	}
	l.blocks = append(l.blocks, slackgo.NewActionBlock("", elements...))
	return l
}

// What buttons do, as their action_id.
const (
	actionExtend = "extend"
	actionClose  = "close"
	actionOpen   = "open" // a link; Slack tells us of it all the same
)

// extendBy is what the button grants: at least so long from when it is pressed.
const extendBy = time.Hour

func extendButton(id string) *slackgo.ButtonBlockElement {
	return button(actionExtend, id, "Keep for 1 hour from now")
}

func closeButton(id, label string) *slackgo.ButtonBlockElement {
	return button(actionClose, id, label).WithStyle(slackgo.StyleDanger)
}

func button(action, value, label string) *slackgo.ButtonBlockElement {
	return slackgo.NewButtonBlockElement(action, value, slackgo.NewTextBlockObject(slackgo.PlainTextType, label, false, false))
}

func richText(elements ...slackgo.RichTextElement) slackgo.Block {
	return slackgo.NewRichTextBlock("", elements...)
}

func text(words string) *slackgo.RichTextSectionTextElement {
	return slackgo.NewRichTextSectionTextElement(words, nil)
}

func bold(words string) *slackgo.RichTextSectionTextElement {
	return slackgo.NewRichTextSectionTextElement(words, &slackgo.RichTextSectionTextStyle{Bold: true})
}

// plain is one line without what would turn or break the text around it, cut to a
// length. Slack takes no empty text.
func plain(words string, most int) string {
	if words = shortened(oneLine(words), most); words == "" {
		return "-"
	}
	return words
}

// printableLines keeps the ends of lines, and nothing else that is not printable.
func printableLines(lines string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return ' '
	}, lines)
}

// webhook is the letter as an answer to a command or for a response_url, for the
// person alone.
func (l *message) webhook(replace bool) slackgo.WebhookMessage {
	return slackgo.WebhookMessage{
		Text:            l.notification,
		Blocks:          &slackgo.Blocks{BlockSet: l.blocks},
		ResponseType:    slackgo.ResponseTypeEphemeral,
		ReplaceOriginal: replace,
		UnfurlLinks:     new(bool),
		UnfurlMedia:     new(bool),
	}
}

// directMessage is what chat.postMessage takes.
type directMessage struct {
	Channel     string         `json:"channel"`
	Text        string         `json:"text"`
	Blocks      slackgo.Blocks `json:"blocks"`
	UnfurlLinks bool           `json:"unfurl_links"`
	UnfurlMedia bool           `json:"unfurl_media"`
}

// direct is the letter as a direct message: a user's id opens the conversation of
// the app with them.
func (l *message) direct(user string) directMessage {
	return directMessage{Channel: user, Text: l.notification, Blocks: slackgo.Blocks{BlockSet: l.blocks}}
}
