package slack

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

func TestCommands(t *testing.T) {
	const h, m = time.Hour, time.Minute
	for _, test := range []struct {
		text string
		want Command
	}{
		{"", Command{Verb: VerbHelp}},
		{"   ", Command{Verb: VerbHelp}},
		{"help", Command{Verb: VerbHelp}},
		{"HELP", Command{Verb: VerbHelp}},
		{"status", Command{Verb: VerbStatus}},
		{"  Status  ", Command{Verb: VerbStatus}},

		{"up", Command{Verb: VerbUp}},
		{"UP", Command{Verb: VerbUp}},
		{"up for 2h", Command{Verb: VerbUp, TTL: 2 * h}},
		{"up for 2 hours", Command{Verb: VerbUp, TTL: 2 * h}},
		{"up for 1 hour", Command{Verb: VerbUp, TTL: h}},
		{"up for 90m", Command{Verb: VerbUp, TTL: 90 * m}},
		{"up for 1h30m", Command{Verb: VerbUp, TTL: 90 * m}},
		{"up for 1h 30m", Command{Verb: VerbUp, TTL: 90 * m}},
		{"up for 1 hour 30 minutes", Command{Verb: VerbUp, TTL: 90 * m}},
		{"up for 1.5 hours", Command{Verb: VerbUp, TTL: 90 * m}},
		{"up For 2H", Command{Verb: VerbUp, TTL: 2 * h}},
		{"up 2h", Command{Verb: VerbUp, TTL: 2 * h}},
		{"up for \"2 hours\"", Command{Verb: VerbUp, TTL: 2 * h}},
		{"up for 1 day", Command{Verb: VerbUp, TTL: 24 * h}},
		{"up for 2d", Command{Verb: VerbUp, TTL: 48 * h}},
		{"up for 1d12h", Command{Verb: VerbUp, TTL: 36 * h}},
		{"up for 2 hrs", Command{Verb: VerbUp, TTL: 2 * h}},
		{"up for 10 mins", Command{Verb: VerbUp, TTL: 10 * m}},
		{"up for 90 seconds", Command{Verb: VerbUp, TTL: 90 * time.Second}},
		{"up name web", Command{Verb: VerbUp, Name: "web"}},
		{"up name WEB", Command{Verb: VerbUp, Name: "web"}},
		{"up name \"web\"", Command{Verb: VerbUp, Name: "web"}},
		{"up called web for 2h", Command{Verb: VerbUp, Name: "web", TTL: 2 * h}},
		{"up for 2h name web because deploy", Command{Verb: VerbUp, TTL: 2 * h, Name: "web", Reason: "deploy"}},
		{"up name web for 2h because deploy", Command{Verb: VerbUp, TTL: 2 * h, Name: "web", Reason: "deploy"}},
		{"up because \"the deploy\" name web for 2h", Command{Verb: VerbUp, TTL: 2 * h, Name: "web", Reason: "the deploy"}},
		{"up because “the deploy” for 2h", Command{Verb: VerbUp, TTL: 2 * h, Reason: "the deploy"}},
		{"up because ‘the deploy’ for 2h", Command{Verb: VerbUp, TTL: 2 * h, Reason: "the deploy"}},
		{"up because 'the deploy' for 2h", Command{Verb: VerbUp, TTL: 2 * h, Reason: "the deploy"}},
		{"up because it's time for tea", Command{Verb: VerbUp, Reason: "it's time for tea"}},
		{"up because \"never closed", Command{Verb: VerbUp, Reason: "\"never closed"}},
		{"up because a &lt;b&gt; &amp;amp; c", Command{Verb: VerbUp, Reason: "a <b> &amp; c"}},
		{"up because <https://example.com/a?b=1&amp;c=2>", Command{Verb: VerbUp, Reason: "https://example.com/a?b=1&c=2"}},
		{"up because <http://example.com|example.com> asks", Command{Verb: VerbUp, Reason: "example.com asks"}},
		{"up because <@U012|bob> in <#C012|ops> and <!here>", Command{Verb: VerbUp, Reason: "@bob in #ops and @here"}},
		{"up because one\ntwo\u202ethree", Command{Verb: VerbUp, Reason: "one two three"}},
		{"up because für Größe 日本", Command{Verb: VerbUp, Reason: "für Größe 日本"}},
		{"up\u00a0for\u00a02h", Command{Verb: VerbUp, TTL: 2 * h}},
		{"up because " + strings.Repeat("é", 200), Command{Verb: VerbUp, Reason: strings.Repeat("é", 200)}},
		{"up name " + strings.Repeat("a", 32), Command{Verb: VerbUp, Name: strings.Repeat("a", 32)}},

		{"down", Command{Verb: VerbDown}},
		{"down web", Command{Verb: VerbDown, Name: "web"}},
		{"down name web", Command{Verb: VerbDown, Name: "web"}},
		{"Down Web", Command{Verb: VerbDown, Name: "web"}},
		{"down name", Command{Verb: VerbDown, Name: "name"}},

		{"extend 30m", Command{Verb: VerbExtend, TTL: 30 * m}},
		{"extend for 30m", Command{Verb: VerbExtend, TTL: 30 * m}},
		{"extend by 30 minutes", Command{Verb: VerbExtend, TTL: 30 * m}},
		{"extend 30m web", Command{Verb: VerbExtend, TTL: 30 * m, Name: "web"}},
		{"extend web 30m", Command{Verb: VerbExtend, TTL: 30 * m, Name: "web"}},
		{"extend web for 1 hour", Command{Verb: VerbExtend, TTL: h, Name: "web"}},
		{"extend 30m name web", Command{Verb: VerbExtend, TTL: 30 * m, Name: "web"}},
		{"extend 30m name 2h", Command{Verb: VerbExtend, TTL: 30 * m, Name: "2h"}},

		{"key " + annsKey, Command{Verb: VerbKey, Key: annsKey}},
		{"KEY " + annsKey + " ann@example.com", Command{Verb: VerbKey, Key: annsKey}},
		{"key " + annsKey + " <mailto:ann@example.com|ann@example.com>", Command{Verb: VerbKey, Key: annsKey}},
		{"key \"" + annsKey + "\"", Command{Verb: VerbKey, Key: annsKey}},
		{"key " + annsKey + " J\xe9r\xf4me \x1b[2J\u202e", Command{Verb: VerbKey, Key: annsKey}},
		{"key ---- BEGIN SSH2 PUBLIC KEY ----\nComment: \"ann's laptop\"\n" + strings.Fields(annsKey)[1] + "\n---- END SSH2 PUBLIC KEY ----", Command{Verb: VerbKey, Key: annsKey}},
	} {
		got, err := ParseCommand(test.text)
		if err != nil || got != test.want {
			t.Errorf("%q is\n%+v, %v, want\n%+v", test.text, got, err, test.want)
		}
	}
}

func TestWrongCommandsGetSuggestions(t *testing.T) {
	long := strings.Repeat("x", 201)
	for _, test := range []struct{ text, message, try string }{ // several suggestions are separated by |
		{"pu", "“pu”", "up"},
		{"u", "“u”", "up"},
		{"upp", "“upp”", "up"},
		{"upp for 2h", "“upp”", "up for 2h"},
		{"statsu", "“statsu”", "status"},
		{"stauts", "“stauts”", "status"},
		{"dwon web", "“dwon”", "down web"},
		{"extned 30m web", "“extned”", "extend 30m web"},
		{"exten", "“exten”", "extend 30m"},
		{"kye " + annsKey, "“kye”", "key ssh-ed25519 AAAA…"},
		{"hlep", "“hlep”", "help"},
		{"start for 2h", "“start”", "up for 2h"},
		{"close web", "“close”", "down web"},
		{"list", "“list”", "status"},
		{"renew 1h", "“renew”", "extend 1h"},
		{"?", "“?”", "help"},
		{"frobnicate", "“frobnicate”", "help"},
		{"frobnicate the thing", "“frobnicate”", "help"},
		{"<@U0BOB|bob>", "“@bob”", "help"},
		{strings.Repeat("up", 5000), "“upup", "help"},
		{annsKey, "public key", "key ssh-ed25519 AAAA…"},

		{"up web", "“web”", "up name web"},
		{"up fro 2h", "“fro”", "up for 2h"},
		{"up nmae web for 2h", "“nmae”", "up for 2h name web"},
		{"up becuase deploy", "“becuase”", "up because deploy"},
		{"up for 2h now!", "“now!”", "up for 2h"},
		{"up for", "nothing follows “for”", "up for 2h"},
		{"up for ever", "“ever”", "up for 2h"},
		{"up for 2", "“2” has no unit. Add one, such as 2h or 2m.", "up for 2h|up for 2m"},
		{"up for 30", "“30” has no unit", "up for 30h|up for 30m"},
		{"up name web for 1.5", "“1.5” has no unit", "up for 1h30m name web|up for 1m30s name web"},
		{"up for 0s", "“0s” is not a valid duration", "up for 2h"},
		{"up for 0", "“0”", "up for 30m"},
		{"up for -2h", "“-2h”", "up for 2h"},
		{"up for 0.5s", "“0.5s”", "up for 2h"},
		{"up for 2 fortnights", "“2”", "up for 2h|up for 2m"},
		{"up for 2h for 3h", "twice", "up for 2h"},
		{"up 2h 3h because x", "twice", "up for 2h"},
		{"up name", "nothing follows “name”", "up name web"},
		{"up name my_web", "“my_web” is not a valid name", "up name my-web"},
		{"up name -", "“-”", "up name web"},
		{"up name " + strings.Repeat("a", 33), "1 to 32", "up name " + strings.Repeat("a", 32)},
		{"up name <!channel>", "“@channel”", "up name channel"},
		{"up name a name b", "only one name", "up name a"},
		{"up because", "nothing follows “because”", "up because …"},
		{"up because \"a\" because \"b\"", "two reasons", "up because a"},
		{"up because " + long, "201 characters; the limit is 200", "up because " + long[:59] + "…"},

		{"down web db", "only one name", "down web"},
		{"down we/b", "“we/b”", "down we-b"},
		{"down because x", "“down” takes no “because”", "down"},
		{"down web because x", "“down” takes no “because”", "down web"},
		{"down for 2h", "“down” takes no “for”", "down"},
		{"extend 30m because x", "“extend” takes no “because”", "extend 30m"},
		{"extend", "The duration is missing.", "extend 30m"},
		{"extend web", "The duration is missing.", "extend 30m web"},
		{"extend 0s", "“0s” is not a valid duration", "extend 30m"},
		{"extend 9999999999d", "“9999999999d” is not a valid duration", "extend 30m"},
		{"extend 2", "“2” has no unit", "extend 2h|extend 2m"},
		{"extend web 30", "“30” has no unit", "extend 30h web|extend 30m web"},
		{"extend 30m 40m", "“40m”", "extend 30m"},
		{"extend for ever", "“ever”", "extend 2h"},
		{"status web", "“status” takes no arguments", "status"},
		{"status because x", "“status” takes no arguments", "status"},
		{"help me", "“help” takes no arguments", "help"},
		{"key", "missing", "key ssh-ed25519 AAAA…"},
	} {
		_, err := ParseCommand(test.text)
		var wrong *CommandError
		if !errors.As(err, &wrong) {
			t.Errorf("%.60q: %v, want a *CommandError", test.text, err)
			continue
		}
		if got := strings.Join(wrong.Try, "|"); !strings.Contains(wrong.Message, test.message) || got != test.try {
			t.Errorf("%.60q: %q, try %q; want %q in it, and try %q", test.text, wrong.Message, got, test.message, test.try)
		}
		if specOf(wrong.Verb).usage == "" {
			t.Errorf("%.60q: there is no usage of %q", test.text, wrong.Verb)
		}
		for _, try := range wrong.Try {
			if _, err := ParseCommand(try); err != nil && !strings.Contains(try, "…") {
				t.Errorf("%.60q: the suggestion %q is wrong itself: %v", test.text, try, err)
			}
		}
	}
}

// Each command has all fields that it needs, a valid example, and a line in the help. No
// two commands share a verb or synonym.
func TestCommandTableIsComplete(t *testing.T) {
	seen := map[string]Verb{}
	for _, spec := range commands() {
		if spec.usage == "" || spec.summary == "" || spec.parse == nil || spec.run == nil {
			t.Errorf("%s: %+v", spec.verb, spec)
		}
		if c, err := ParseCommand(spec.example); spec.verb != VerbKey && (err != nil || c.Verb != spec.verb) {
			t.Errorf("%s: its example %q is read as %+v, %v", spec.verb, spec.example, c, err)
		}
		for _, word := range append([]string{string(spec.verb)}, spec.synonyms...) {
			if other, ok := seen[word]; ok {
				t.Errorf("%q stands for %s and %s", word, other, spec.verb)
			}
			seen[word] = spec.verb
		}
		wantContains(t, readable(mustJSON(helpMessage().webhook(false))), slash+" "+spec.usage+" - "+spec.summary)
	}
}

func mustJSON(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return body
}

// ParseCommand parses what String returns, even if the name looks like a duration or a
// keyword.
func TestStringIsParsedToTheSameCommand(t *testing.T) {
	for _, verb := range []Verb{VerbUp, VerbExtend, VerbDown} {
		for _, name := range []string{"web", "by", "for", "because", "30m", "0s", "2", "99999d", "1h30m", "days"} {
			want := Command{Verb: verb, Name: name}
			if verb != VerbDown {
				want.TTL = 2 * time.Hour
			}
			if got, err := ParseCommand(want.String()); err != nil || got != want {
				t.Errorf("%q is parsed to %+v, %v", want.String(), got, err)
			}
		}
	}
}

// A duration beyond the maximum is refused as too long, even if it is too long for a
// time.Duration. If the maximum is a whole number of days, the suggestion gives it in days.
func TestDurationBeyondTheCapIsRefused(t *testing.T) {
	d := withKey(t)
	d.MaxTTL = 48 * time.Hour
	for _, text := range []string{"up for 3d", "up for 49 hours", "up for 999999999d", "extend 2d1s"} {
		wantContains(t, readable(d.types(text)), "Bastions can run for at most 48 hours.")
	}
	wantContains(t, readable(d.types("up for 3d")), slash+" up for 2d")
	wantContains(t, readable(d.types("up for 2d")), "Duration: 48 hours")
}

func TestPrivateKeysAreRefusedUnderEveryVerb(t *testing.T) {
	for _, private := range []string{
		"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU\n-----END OPENSSH PRIVATE KEY-----",
		"-----BEGIN RSA PRIVATE KEY----- MIIE",
		"b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQ",
		"PuTTY-User-Key-File-3: ssh-ed25519",
	} {
		for _, verb := range []string{"", "key ", "up because ", "up name ", "down ", "extend 30m ", "status ", "help ", "frobnicate "} {
			_, err := ParseCommand(verb + private)
			var refused *bastion.Error
			if !errors.As(err, &refused) || refused.Code != publickey.CodePrivate {
				t.Errorf("%s%.30s…: %v, want private_key", verb, private, err)
			}
			d := newFixture(t)
			answer := d.types(verb + private)
			wantContains(t, readable(answer), "That was a private key: replace it", "ssh-keygen -t ed25519")
			for _, holder := range []string{string(answer), d.log.String()} {
				if strings.Contains(holder, "b3BlbnNzaC1rZXktdjEA") || strings.Contains(holder, "MIIE") {
					t.Errorf("the key is in %s", holder)
				}
			}
			if d.table.writes != 0 {
				t.Errorf("%d writes", d.table.writes)
			}
		}
	}
}

func TestWrongKeysAreRefused(t *testing.T) {
	for _, test := range []struct {
		text string
		code bastion.Code
	}{
		{"key ssh-ed25519", publickey.CodeInvalid},
		{"key rubbish", publickey.CodeInvalid},
		{"key " + annsKey + " " + strings.TrimPrefix(annsKey, "ssh-ed25519 "), publickey.CodeTwo},
		{"key restrict " + annsKey, publickey.CodeOptions},
		{"key ssh-dss AAAA", publickey.CodeType},
		{"key ssh-ed25519-cert-v01@openssh.com AAAA", publickey.CodeCertificate},
	} {
		_, err := ParseCommand(test.text)
		var refused *bastion.Error
		if !errors.As(err, &refused) || refused.Code != test.code {
			t.Errorf("%s: %v, want %s", test.text, err, test.code)
		}
	}
}

func TestDurationsInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Second: "1 second", 90 * time.Second: "1 minute 30 seconds", 30 * time.Minute: "30 minutes", time.Hour: "1 hour",
		90 * time.Minute: "1 hour 30 minutes", 25*time.Hour + time.Second: "25 hours 1 second", 0: "0 seconds",
	} {
		if got := inWords(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

// For each text, ParseCommand returns a command, an error with a suggestion, or the
// refusal of a key.
func FuzzParseCommand(f *testing.F) {
	for _, text := range []string{"up for 2h name web because “x”", "extend 30m", "<@U1|x>", "up for 1 1 1", "'", "\"", "down \xff", "key " + annsKey} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCommand(text)
		var wrong *CommandError
		var refused *bastion.Error
		switch {
		case err == nil && c.Verb == "":
			t.Error("no error, and no command")
		case err == nil && c.Name != "" && !bastion.ValidName(c.Name):
			t.Errorf("the name %q", c.Name)
		case err != nil && !errors.As(err, &wrong) && !errors.As(err, &refused):
			t.Errorf("an unknown error: %v", err)
		case wrong != nil && (wrong.Message == "" || len(wrong.Try) == 0 || wrong.Verb == ""):
			t.Errorf("no message, suggestion or verb: %+v", wrong)
		}
	})
}

// Without a bot token, the app could send no messages about the bastion, so it issues no
// link.
func TestUpWithoutABotTokenIsRefused(t *testing.T) {
	d := newFixture(t)
	if err := d.saveKey(t.Context(), ann, annsKey); err != nil {
		t.Fatal(err)
	}
	d.Credentials = func(_ context.Context, team string) (Credentials, error) {
		if team != "" {
			return Credentials{}, errors.New("no parameter with the token")
		}
		return d.credentials, nil
	}
	reply := readable(d.types("up"))
	if !strings.Contains(reply, "can't read the bot token of this workspace") || !strings.Contains(reply, "T0ANN") || strings.Contains(reply, "https://bastions.example") {
		t.Errorf("the reply is\n%s", reply)
	}
	if !strings.Contains(d.log.String(), "no parameter with the token") {
		t.Errorf("the log has no cause: %s", d.log)
	}
}
