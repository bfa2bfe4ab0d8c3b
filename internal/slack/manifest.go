package slack

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/slack-go/slack"
)

// servicePaths are the valid paths of the service's URL.
var servicePaths = []string{"/bastions", "/", ""}

// Manifest returns the manifest of the Slack app for a service whose API is at a URL
// like https://HOST/bastions. It tells Slack where commands and buttons go, and that
// the app may send direct messages.
//
// The format: https://docs.slack.dev/reference/app-manifest
func Manifest(service string) (slack.Manifest, error) {
	at, err := url.Parse(service)
	if err != nil || at.Scheme != "https" || at.Host == "" || at.User != nil || !slices.Contains(servicePaths, at.Path) || at.RawQuery != "" || at.Fragment != "" {
		return slack.Manifest{}, fmt.Errorf("%q is not the URL of a service: use the stack's output Url, such as https://HOST/bastions", service)
	}
	base := "https://" + at.Host
	var usages []string
	for _, spec := range commands() {
		usages = append(usages, spec.usage)
	}
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
				Command:     slash,
				Description: "Start, show, extend and close your bastions",
				UsageHint:   strings.Join(usages, " | "),
				Url:         base + commandRoute,
			}},
		},
		OAuthConfig: slack.OAuthConfig{Scopes: slack.OAuthScopes{Bot: []string{"commands", "chat:write"}}},
		Settings: slack.Settings{
			Interactivity: &slack.Interactivity{IsEnabled: true, RequestUrl: base + interactionRoute},
		},
	}, nil
}
