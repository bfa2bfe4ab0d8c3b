package slack

import (
	"fmt"
	"net/url"
	"slices"

	"github.com/slack-go/slack"
)

// servicePaths are the paths that where the service is may be told with.
var servicePaths = []string{"/bastions", "/", ""}

// Manifest is the app that Slack's "create from a manifest" makes of us, for the
// service whose API is at a URL like https://HOST/bastions. It is all that Slack has to know: where the
// command and the buttons go, and that it may write to people (for warnings and
// receipts; without a bot token nothing is written).
//
// What a manifest holds: https://docs.slack.dev/reference/app-manifest
func Manifest(service string) (slack.Manifest, error) {
	at, err := url.Parse(service)
	if err != nil || at.Scheme != "https" || at.Host == "" || at.User != nil || !slices.Contains(servicePaths, at.Path) || at.RawQuery != "" || at.Fragment != "" {
		return slack.Manifest{}, fmt.Errorf("%q is not where the service is: give the stack's output Url, as https://HOST/bastions", service)
	}
	base := "https://" + at.Host
	return slack.Manifest{
		Display: slack.Display{
			Name:            "Bastion on demand",
			Description:     "An SSH bastion of your own, for as long as you need it",
			BackgroundColor: "#1d3a2f",
		},
		Features: slack.Features{
			BotUser: slack.BotUser{DisplayName: "Bastion"},
			AppHome: slack.AppHome{MessagesTabEnabled: true, MessagesTabReadOnlyEnabled: true},
			SlashCommands: []slack.ManifestSlashCommand{{
				Command:     "/bastion",
				Description: "Ask for a bastion, look at it, extend it, close it",
				UsageHint:   "up [for 2h] [name N] [because …] | status | extend 30m | down | key … | help",
				Url:         base + commandRoute,
			}},
		},
		OAuthConfig: slack.OAuthConfig{Scopes: slack.OAuthScopes{Bot: []string{"commands", "chat:write"}}},
		Settings: slack.Settings{
			Interactivity: &slack.Interactivity{IsEnabled: true, RequestUrl: base + interactionRoute},
		},
	}, nil
}
