package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Slack is all that the Slack function is told.
type Slack struct {
	Table string // what it remembers

	// The names of parameters of Parameter Store, never the secrets themselves.
	SigningSecret string
	// BotTokens names one parameter, or ends in a slash: then it is the path of one
	// parameter for each workspace, which has the team's id for a name.
	BotTokens string

	Teams    []string // workspaces whose people are let in
	Channels []string // if not empty, the channels in which commands are taken
	Users    []string // if not empty, the people who are let in

	// As those of bastion.Config.
	DefaultTTL, MaxTTL time.Duration

	// The ARNs of the aliases by which it calls the other functions.
	Create, Describe, Extend, Destroy string

	// Work is its own alias, by which it hands work over to itself: as
	// NAME:ALIAS, which Lambda takes for an ARN.
	Work string
}

// BotToken is the name of the parameter that holds a team's bot token.
func (s Slack) BotToken(team string) string {
	if strings.HasSuffix(s.BotTokens, "/") {
		return s.BotTokens + team
	}
	return s.BotTokens
}

// SecretNames are the names of all parameters that the function may read.
func (s Slack) SecretNames() []string {
	names := []string{s.SigningSecret}
	for _, team := range s.Teams {
		if name := s.BotToken(team); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// maxSecrets is how many parameters one call of GetParameters reads.
const maxSecrets = 10

// functionName is where Lambda tells a function its name.
const functionName = "AWS_LAMBDA_FUNCTION_NAME"

// WorkAlias is the alias of template.yaml by which the Slack function is given work.
const WorkAlias = "work"

// LoadSlack reads the environment of the Slack function, given as os.Environ
// answers it. Its error lists all that is missing, malformed or unknown.
func LoadSlack(environ []string) (Slack, error) {
	r := newReader(slackPrefix, environ)
	s := Slack{
		Table:         r.text("TABLE", tableName),
		SigningSecret: r.text("SIGNING_SECRET_PARAMETER", parameterName),
		BotTokens:     r.text("BOT_TOKEN_PARAMETER", parameterNameOrPath),
		Teams:         r.list("TEAMS", slackTeam),
		Channels:      r.list("CHANNELS", slackChannel),
		Users:         r.list("USERS", slackUser),
		DefaultTTL:    r.duration("DEFAULT_TTL"),
		MaxTTL:        r.duration("MAX_TTL"),
		Create:        r.text("CREATE", slackDoor),
		Describe:      r.text("DESCRIBE", slackDoor),
		Extend:        r.text("EXTEND", slackDoor),
		Destroy:       r.text("DESTROY", slackDoor),
		Work:          r.ownAlias(environ),
	}
	r.unknown()
	if len(r.wrong) == 0 && len(s.Teams) == 0 {
		r.wrong = append(r.wrong, fmt.Errorf("%sTEAMS is empty: nobody would be let in; name your workspace, as T0123ABCD", slackPrefix))
	}
	if len(r.wrong) == 0 && (s.DefaultTTL <= 0 || s.MaxTTL <= 0) {
		r.wrong = append(r.wrong, fmt.Errorf("%[1]sDEFAULT_TTL (%[2]s) and %[1]sMAX_TTL (%[3]s) must be more than zero", slackPrefix, s.DefaultTTL, s.MaxTTL))
	}
	for _, team := range s.Teams {
		if len(r.wrong) == 0 && s.SigningSecret == s.BotToken(team) {
			r.wrong = append(r.wrong, fmt.Errorf("%sSIGNING_SECRET_PARAMETER and %[1]sBOT_TOKEN_PARAMETER both name %s: the signing secret and a bot token are different secrets", slackPrefix, s.SigningSecret))
		}
	}
	if names := s.SecretNames(); len(r.wrong) == 0 && len(names) > maxSecrets {
		r.wrong = append(r.wrong, fmt.Errorf("%sTEAMS has %d workspaces with a bot token each: at most %d are supported", slackPrefix, len(s.Teams), maxSecrets-1))
	}
	if err := errors.Join(r.wrong...); err != nil {
		return Slack{}, fmt.Errorf("the configuration of the Slack function is wrong:\n%w", err)
	}
	return s, nil
}

// ownAlias makes the name that the function hands work over to.
func (r *reader) ownAlias(environ []string) string {
	for _, entry := range environ {
		if name, value, _ := strings.Cut(entry, "="); name == functionName && value != "" {
			own, _, _ := strings.Cut(value, ":") // the emulator's name may have an alias in it
			return own + ":" + WorkAlias
		}
	}
	r.wrong = append(r.wrong, fmt.Errorf("%s is missing: Lambda sets it", functionName))
	return ""
}
