package slack

import (
	"reflect"
	"slices"
	"testing"
)

func TestManifest(t *testing.T) {
	m, err := Manifest("https://host.example/bastions")
	if err != nil {
		t.Fatal(err)
	}
	for _, same := range []string{"https://host.example", "https://host.example/"} {
		if other, err := Manifest(same); err != nil || !reflect.DeepEqual(other, m) {
			t.Errorf("of %s: %v, %+v", same, err, other)
		}
	}
	command := m.Features.SlashCommands[0]
	if command.Command != "/bastion" || command.Url != "https://host.example/slack/command" || command.ShouldEscape {
		t.Errorf("the command is %+v", command)
	}
	if at := m.Settings.Interactivity; !at.IsEnabled || at.RequestUrl != "https://host.example/slack/interaction" {
		t.Errorf("buttons go to %+v", at)
	}
	// The app needs two scopes only: for its command and for direct messages.
	if scopes := m.OAuthConfig.Scopes; !slices.Equal(scopes.Bot, []string{"commands", "chat:write"}) || len(scopes.User) > 0 {
		t.Errorf("the scopes are %+v", scopes)
	}
	// Slack's limits: https://docs.slack.dev/reference/app-manifest
	if len(m.Display.Name) > 35 || len(m.Display.Description) > 140 || len(command.Description) > 2000 || len(command.UsageHint) > 1000 {
		t.Error("a text is longer than Slack accepts")
	}
	for _, wrong := range []string{"", "host.example", "http://host.example", "https://", "https://a:b@host.example", "https://host.example/slack", "https://host.example?x", "https://host.example#x", "https://%zz"} {
		if _, err := Manifest(wrong); err == nil {
			t.Errorf("%q was accepted", wrong)
		}
	}
}
