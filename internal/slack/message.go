package slack

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	slackgo "github.com/slack-go/slack"
)

// message is what a person reads in Slack. Everything that somebody may have written,
// or that a task reported, is in text elements of rich_text blocks: Slack reads no
// markup, link, mention or emoji there. Slack's markup is read in dates only, which
// are ours.
type message struct {
	notification string // our own words only: Slack reads markup in it
	blocks       []slackgo.Block
}

// Slack's limits; a test checks every message against them.
const (
	maxText  = 3000
	maxShown = 1000 // characters of other people's text, such as a problem's sentence
)

// newMessage returns a message with a title in bold.
func newMessage(notification, title string) *message {
	return (&message{notification: notification}).title(title)
}

// title adds a line in bold.
func (m *message) title(title string) *message {
	m.blocks = append(m.blocks, richText(slackgo.NewRichTextSection(bold(plain(title, maxShown)))))
	return m
}

// say adds a paragraph.
func (m *message) say(format string, args ...any) *message {
	m.blocks = append(m.blocks, richText(slackgo.NewRichTextSection(text(plain(fmt.Sprintf(format, args...), maxShown)))))
	return m
}

// code adds lines to be copied as they are. What is too long for Slack is not cut
// off: half of it would be wrong.
func (m *message) code(lines string) *message {
	lines = strings.TrimRight(lines, "\n")
	if len([]rune(lines)) > maxText {
		return m.say("(This is too long for Slack.)")
	}
	m.blocks = append(m.blocks, richText(&slackgo.RichTextPreformatted{
		Type:     slackgo.RTEPreformatted,
		Elements: []slackgo.RichTextSectionElement{text(printableLines(lines))},
	}))
	return m
}

// list adds lines with bullets.
func (m *message) list(lines ...string) *message {
	list := slackgo.NewRichTextList(slackgo.RTEListBullet, 0)
	for _, line := range lines {
		list.Elements = append(list.Elements, slackgo.NewRichTextSection(text(plain(line, maxShown))))
	}
	m.blocks = append(m.blocks, richText(list))
	return m
}

// dates adds a line of our own words in which each %s is a time. Every reader sees it
// in their own time zone; see
// https://docs.slack.dev/messaging/formatting-message-text/#date-formatting.
func (m *message) dates(format string, times ...time.Time) *message {
	var args []any
	for _, t := range times {
		args = append(args, fmt.Sprintf("<!date^%d^{date_short_pretty} at {time}|%s>", t.Unix(), t.UTC().Format("2006-01-02 15:04 UTC")))
	}
	line := slackgo.NewTextBlockObject(slackgo.MarkdownType, fmt.Sprintf(format, args...), false, true)
	m.blocks = append(m.blocks, slackgo.NewSectionBlock(line, nil, nil))
	return m
}

// buttons adds a row of buttons.
func (m *message) buttons(buttons ...*slackgo.ButtonBlockElement) *message {
	var elements []slackgo.BlockElement
	for _, b := range buttons {
		elements = append(elements, b)
	}
	m.blocks = append(m.blocks, slackgo.NewActionBlock("", elements...))
	return m
}

// What buttons do, as their action_id.
const (
	actionExtend = "extend"
	actionClose  = "close"
	actionOpen   = "open" // a link; Slack reports the press all the same
)

// extendBy is what the button grants: at least this long from when it is pressed.
const extendBy = time.Hour

func extendButton(id string) *slackgo.ButtonBlockElement {
	return button(actionExtend, id, "Extend to 1 hour from now")
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

// plain returns one line of printable characters, cut to a length. Slack accepts no
// empty text.
func plain(words string, most int) string {
	if words = shortened(oneLine(words), most); words == "" {
		return "-"
	}
	return words
}

// printableLines keeps line ends and printable characters.
func printableLines(lines string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return ' '
	}, lines)
}

// webhook returns the message as the response to a command or for a response_url,
// for the person alone.
func (m *message) webhook(replace bool) slackgo.WebhookMessage {
	return slackgo.WebhookMessage{
		Text:            m.notification,
		Blocks:          &slackgo.Blocks{BlockSet: m.blocks},
		ResponseType:    slackgo.ResponseTypeEphemeral,
		ReplaceOriginal: replace,
		UnfurlLinks:     new(bool),
		UnfurlMedia:     new(bool),
	}
}

// directMessage is the argument of chat.postMessage, and with a TS of chat.update.
type directMessage struct {
	posted
	Text        string         `json:"text"`
	Blocks      slackgo.Blocks `json:"blocks"`
	UnfurlLinks bool           `json:"unfurl_links"`
	UnfurlMedia bool           `json:"unfurl_media"`
}

// direct returns the message as a direct message. A user's ID as the channel stands
// for the app's conversation with them.
func (m *message) direct(at posted) directMessage {
	return directMessage{posted: at, Text: m.notification, Blocks: slackgo.Blocks{BlockSet: m.blocks}}
}
