package slack

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	slackgo "github.com/slack-go/slack"
)

// message is a message that a person reads in Slack. Text from people and from tasks is
// only in text elements of rich_text blocks, where Slack parses no markup, link, mention
// or emoji. Only dates use Slack's markup; the app formats them itself.
type message struct {
	notification string // never text from people: Slack parses markup in it
	blocks       []slackgo.Block
}

// A test checks every message against all of Slack's limits.
const (
	maxText  = 3000 // characters of one text: Slack's limit
	maxShown = 1000 // characters of one paragraph or list line: the app's own limit
)

// newMessage returns a message with a title in bold.
func newMessage(notification, title string) *message {
	return (&message{notification: notification}).title(title)
}

// title adds a line of bold text.
func (m *message) title(title string) *message {
	m.blocks = append(m.blocks, richText(slackgo.NewRichTextSection(bold(plain(title, maxShown)))))
	return m
}

// paragraph adds a paragraph.
func (m *message) paragraph(format string, args ...any) *message {
	m.blocks = append(m.blocks, richText(slackgo.NewRichTextSection(text(plain(fmt.Sprintf(format, args...), maxShown)))))
	return m
}

// code adds lines that a person can copy. Text that is too long for Slack is left out
// and not cut off, because half of a command or configuration would be wrong.
func (m *message) code(lines string) *message {
	lines = strings.TrimRight(lines, "\n")
	if len([]rune(lines)) > maxText {
		return m.paragraph("(This is too long for Slack.)")
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

// dates adds a line in which each %s of the format is a time. Each reader sees the times
// in their own time zone. The format must not contain text from people. See
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

// The action_ids of the buttons.
const (
	actionExtend = "extend"
	actionClose  = "close"
	actionOpen   = "open" // opens a URL; Slack also sends a request for it
)

// extendBy is the time that the extend button grants, counted from the press.
const extendBy = time.Hour

// bastionButtons adds the buttons that extend and close a bastion.
func (m *message) bastionButtons(b Bastion, closeLabel string) *message {
	return m.buttons(
		button(actionExtend, b.ID, "Extend to 1 hour from now"),
		button(actionClose, b.ID, closeLabel).WithStyle(slackgo.StyleDanger),
	)
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

// plain returns one line of printable characters, cut to a length. For an empty line it
// returns "-", because Slack accepts no empty text.
func plain(words string, most int) string {
	if words = shortened(oneLine(words), most); words == "" {
		return "-"
	}
	return words
}

// printableLines replaces each character that is neither printable nor a line end with
// a space.
func printableLines(lines string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' {
			return r
		}
		return ' '
	}, lines)
}

// webhook returns the message as the response to a command or for a response_url. Only
// the person who made the request sees it.
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

// directMessage is the argument of chat.postMessage, or with a TS, of chat.update.
type directMessage struct {
	posted
	Text        string         `json:"text"`
	Blocks      slackgo.Blocks `json:"blocks"`
	UnfurlLinks bool           `json:"unfurl_links"`
	UnfurlMedia bool           `json:"unfurl_media"`
}

// direct returns the message as a direct message. If the channel is a user's ID, Slack
// uses the app's conversation with that user.
func (m *message) direct(at posted) directMessage {
	return directMessage{posted: at, Text: m.notification, Blocks: slackgo.Blocks{BlockSet: m.blocks}}
}
