package slack

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

// Slack's limits, from these pages of https://docs.slack.dev/reference/:
// block-kit/blocks (50 blocks), block-kit/composition-objects/text-object (1 to
// 3,000 characters), block-kit/blocks/header-block (150),
// block-kit/blocks/section-block (10 fields), block-kit/blocks/context-block (10
// elements), block-kit/blocks/actions-block (25 elements),
// block-kit/block-elements/button-element (text 75, action_id 255, value 2,000, url
// 3,000), methods/chat.postMessage (text: 4,000 are advised, 40,000 cut off).
const (
	limitBlocks   = 50
	limitText     = 3000
	limitHeader   = 150
	limitFields   = 10
	limitContext  = 10
	limitActions  = 25
	limitLabel    = 75
	limitActionID = 255
	limitValue    = 2000
	limitURL      = 3000
	limitMessage  = 4000
)

// dateMarkup matches the only Slack markup that the app's messages contain.
var dateMarkup = regexp.MustCompile(`<!date\^[0-9]+\^\{date_short_pretty\} at \{time\}\|[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2} UTC>`)

// faultsOf lists the parts of a message that exceed Slack's limits, and those in which
// text from people could become a link, a mention, a heading or an emoji.
func faultsOf(body []byte) []string {
	var l struct {
		Text         string           `json:"text"`
		Blocks       []map[string]any `json:"blocks"`
		ResponseType string           `json:"response_type"`
		Channel      string           `json:"channel"`
		UnfurlLinks  *bool            `json:"unfurl_links"`
		UnfurlMedia  *bool            `json:"unfurl_media"`
	}
	c := &checker{}
	if err := json.Unmarshal(body, &l); err != nil {
		return []string{err.Error()}
	}
	c.refuse(l.ResponseType != "ephemeral" && !strings.HasPrefix(l.Channel, "U") && !strings.HasPrefix(l.Channel, "D"), "other people can read it: response_type %q, channel %q", l.ResponseType, l.Channel)
	c.refuse(l.UnfurlLinks == nil || *l.UnfurlLinks || l.UnfurlMedia == nil || *l.UnfurlMedia, "links are unfurled")
	c.refuse(l.Text == "" || utf8.RuneCountInString(l.Text) > limitMessage, "the notification has %d characters", len(l.Text))
	c.refuse(strings.ContainsAny(l.Text, "<>&*_~`@#"), "the notification contains markup: %q", l.Text)
	c.refuse(len(l.Blocks) == 0 || len(l.Blocks) > limitBlocks, "%d blocks", len(l.Blocks))
	for _, b := range l.Blocks {
		c.block(b)
	}
	return c.faults
}

type checker struct{ faults []string }

func (c *checker) refuse(bad bool, format string, args ...any) {
	if bad {
		c.faults = append(c.faults, fmt.Sprintf(format, args...))
	}
}

func (c *checker) block(b map[string]any) {
	switch b["type"] {
	case "section":
		fields, _ := b["fields"].([]any)
		c.refuse(len(fields) > limitFields, "%d fields", len(fields))
		text, _ := b["text"].(map[string]any)
		c.object(text, limitText)
		for _, f := range fields {
			c.object(f.(map[string]any), limitValue)
		}
	case "header":
		text, _ := b["text"].(map[string]any)
		c.object(text, limitHeader)
	case "context":
		elements, _ := b["elements"].([]any)
		c.refuse(len(elements) > limitContext, "%d elements of a context", len(elements))
		for _, e := range elements {
			c.object(e.(map[string]any), limitText)
		}
	case "actions":
		c.actions(b)
	case "rich_text":
		c.rich(b, "rich_text_section", "rich_text_preformatted", "rich_text_list")
	default:
		c.refuse(true, "a block of type %v", b["type"])
	}
}

func (c *checker) object(o map[string]any, limit int) {
	text, _ := o["text"].(string)
	length := utf8.RuneCountInString(text)
	c.refuse(length == 0 || length > limit, "a text of %d characters", length)
	switch o["type"] {
	case "plain_text":
		c.refuse(o["emoji"] != false, "plain text with emoji: %q", text)
	case "mrkdwn":
		c.refuse(o["verbatim"] != true, "markup that is not verbatim: %q", text)
		rest := dateMarkup.ReplaceAllString(text, "")
		c.refuse(strings.ContainsAny(rest, "<>&*_~`"), "markup that is no date: %q", text)
	default:
		c.refuse(true, "a text of type %v", o["type"])
	}
}

func (c *checker) actions(b map[string]any) {
	elements, _ := b["elements"].([]any)
	c.refuse(len(elements) == 0 || len(elements) > limitActions, "%d buttons", len(elements))
	var ids []string
	for _, e := range elements {
		button, _ := e.(map[string]any)
		c.refuse(button["type"] != "button", "an element of type %v", button["type"])
		label, _ := button["text"].(map[string]any)
		c.refuse(label["type"] != "plain_text", "a label of type %v", label["type"])
		c.object(label, limitLabel)
		id, _ := button["action_id"].(string)
		c.refuse(id == "" || len(id) > limitActionID || slices.Contains(ids, id), "the action_id %q", id)
		ids = append(ids, id)
		value, _ := button["value"].(string)
		c.refuse(len(value) > limitValue, "a value of %d bytes", len(value))
		url, _ := button["url"].(string)
		c.refuse(len(url) > limitURL, "a url of %d bytes", len(url))
	}
}

// rich refuses all elements but text: the others are links, mentions, emojis and the
// like.
func (c *checker) rich(v map[string]any, types ...string) {
	elements, _ := v["elements"].([]any)
	c.refuse(len(elements) == 0, "an empty %v", v["type"])
	for _, e := range elements {
		element, _ := e.(map[string]any)
		kind, _ := element["type"].(string)
		if !slices.Contains(types, kind) {
			c.refuse(true, "%v within %v", kind, v["type"])
			continue
		}
		switch kind {
		case "text":
			text, _ := element["text"].(string)
			c.refuse(text == "" || utf8.RuneCountInString(text) > limitText, "a text of %d characters", len(text))
			c.refuse(strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) && r != '\n' }), "a character that is not printable: %q", text)
			c.refuse(strings.Contains(text, "\n") && v["type"] != "rich_text_preformatted", "a line end in text of one line: %q", text)
		case "rich_text_list":
			c.rich(element, "rich_text_section")
		default:
			c.rich(element, "text")
		}
	}
}

func checkMessage(t *testing.T, name string, body []byte) {
	t.Helper()
	for _, fault := range faultsOf(body) {
		t.Errorf("%s: %s", name, fault)
	}
}

// The checker must find violations; otherwise the tests that use it prove nothing.
func TestCheckerFindsEveryViolation(t *testing.T) {
	messageWith := func(blocks string) string {
		return `{"text":"x","response_type":"ephemeral","unfurl_links":false,"unfurl_media":false,"blocks":[` + blocks + `]}`
	}
	section := func(text string) string { return `{"type":"section","text":` + text + `}` }
	rich := func(elements string) string {
		return `{"type":"rich_text","elements":[{"type":"rich_text_section","elements":[` + elements + `]}]}`
	}
	button := func(fields string) string {
		return `{"type":"actions","elements":[{"type":"button","action_id":"a","text":{"type":"plain_text","emoji":false,"text":"x"}` + fields + `}]}`
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	right := rich(`{"type":"text","text":"<!channel> *b* :x:"}`)
	for _, test := range []struct{ body, want string }{
		{messageWith(right), ""},
		{messageWith(section(`{"type":"mrkdwn","verbatim":true,"text":"x <!date^1^{date_short_pretty} at {time}|2026-03-04 09:30 UTC>"}`)), ""},
		{messageWith(strings.Repeat(right+",", 49) + right), ""},
		{messageWith(strings.Repeat(right+",", 50) + right), "51 blocks"},
		{messageWith(""), "0 blocks"},
		{strings.Replace(messageWith(right), "ephemeral", "in_channel", 1), "other people can read it"},
		{strings.Replace(messageWith(right), `"unfurl_media":false`, `"unfurl_media":true`, 1), "unfurled"},
		{strings.Replace(messageWith(right), `"text":"x"`, `"text":"<!here>"`, 1), "notification contains markup"},
		{strings.Replace(messageWith(right), `"text":"x"`, `"text":""`, 1), "notification has 0"},
		{messageWith(section(`{"type":"mrkdwn","verbatim":true,"text":"<!channel>"}`)), "no date"},
		{messageWith(section(`{"type":"mrkdwn","verbatim":true,"text":"*b*"}`)), "no date"},
		{messageWith(section(`{"type":"mrkdwn","text":"x"}`)), "not verbatim"},
		{messageWith(section(`{"type":"plain_text","emoji":true,"text":"x"}`)), "emoji"},
		{messageWith(section(`{"type":"plain_text","emoji":false,"text":"` + long(3001) + `"}`)), "3001 characters"},
		{messageWith(section(`{"type":"plain_text","emoji":false,"text":""}`)), "0 characters"},
		{messageWith(`{"type":"header","text":{"type":"plain_text","emoji":false,"text":"` + long(151) + `"}}`), "151 characters"},
		{messageWith(`{"type":"image"}`), "type image"},
		{messageWith(rich(`{"type":"link","url":"https://x"}`)), "link within"},
		{messageWith(rich(`{"type":"user","user_id":"U1"}`)), "user within"},
		{messageWith(rich(`{"type":"broadcast","range":"here"}`)), "broadcast within"},
		{messageWith(rich(`{"type":"emoji","name":"x"}`)), "emoji within"},
		{messageWith(rich(`{"type":"text","text":"a\nb"}`)), "a line end"},
		{messageWith(rich(`{"type":"text","text":"a\u202eb"}`)), "not printable"},
		{messageWith(rich(`{"type":"text","text":""}`)), "0 characters"},
		{messageWith(rich("")), "empty"},
		{messageWith(button(`,"value":"` + long(2001) + `"`)), "2001 bytes"},
		{messageWith(button(`,"url":"` + long(3001) + `"`)), "3001 bytes"},
		{messageWith(strings.Replace(button(""), `"text":"x"`, `"text":"`+long(76)+`"`, 1)), "76 characters"},
		{messageWith(strings.Replace(button(""), `"action_id":"a"`, `"action_id":"`+long(256)+`"`, 1)), "action_id"},
	} {
		got := strings.Join(faultsOf([]byte(test.body)), "; ")
		if !strings.Contains(got, test.want) || (got != "") != (test.want != "") {
			t.Errorf("%.300s:\n got %q\nwant %q", test.body, got, test.want)
		}
	}
}
