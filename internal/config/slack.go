package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Slack is the configuration of the Slack function.
type Slack struct {
	Table string

	// The names of parameters in Parameter Store, never the secrets themselves.
	SigningSecret string
	// BotTokens names one parameter. If it ends in a slash, it is a path with one
	// parameter for each workspace, named after the team ID.
	BotTokens string

	Teams    []string // the workspaces whose members may use the command
	Channels []string // if not empty, the only channels in which commands are accepted
	Users    []string // if not empty, the only users who may use the command

	// The fields of the same names in bastion.Config.
	DefaultTTL, MaxTTL time.Duration

	// The ARNs of the aliases by which the Slack function calls the functions of the API.
	Create, Describe, Extend, Destroy string

	// Queue is the function's own alias for asynchronous work, as NAME:ALIAS, which
	// Lambda accepts in place of an ARN.
	Queue string
}

// BotToken returns the name of the parameter that holds a team's bot token.
func (s Slack) BotToken(team string) string {
	if strings.HasSuffix(s.BotTokens, "/") {
		return s.BotTokens + team
	}
	return s.BotTokens
}

// SecretNames returns the names of all parameters that the function reads.
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

// functionName is the variable in which Lambda sets a function's name.
const functionName = "AWS_LAMBDA_FUNCTION_NAME"

// QueueAlias is the alias in template.yaml through which the Slack function receives
// its asynchronous work: jobs of its own, and notices.
const QueueAlias = "queue"

// LoadSlack reads the environment of the Slack function, in the form of os.Environ.
// Its error lists everything that is wrong, as [Load]'s does.
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
		Create:        r.text("CREATE", internalAPI),
		Describe:      r.text("DESCRIBE", internalAPI),
		Extend:        r.text("EXTEND", internalAPI),
		Destroy:       r.text("DESTROY", internalAPI),
		Queue:         r.ownAlias(environ),
	}
	if len(r.wrong) == 0 {
		r.wrong = append(r.wrong, s.contradictions()...)
	}
	r.unknown()
	if err := errors.Join(r.wrong...); err != nil {
		return Slack{}, fmt.Errorf("invalid configuration:\n%w", err)
	}
	return s, nil
}

// contradictions returns an error for each value that is well-formed but cannot be used,
// alone or together with another value.
func (s Slack) contradictions() (wrong []error) {
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	refuse(len(s.Teams) == 0, "%sTEAMS is empty: no workspace could use the command; add yours, such as T0123ABCD", slackPrefix)
	refuse(s.DefaultTTL <= 0 || s.MaxTTL <= 0, "%[1]sDEFAULT_TTL (%[2]s) and %[1]sMAX_TTL (%[3]s) must be more than zero", slackPrefix, s.DefaultTTL, s.MaxTTL)
	same := slices.ContainsFunc(s.Teams, func(team string) bool { return s.BotToken(team) == s.SigningSecret })
	refuse(same, "%sSIGNING_SECRET_PARAMETER and %[1]sBOT_TOKEN_PARAMETER both name %s: the signing secret and a bot token are different secrets", slackPrefix, s.SigningSecret)
	refuse(len(s.SecretNames()) > maxSecrets, "%sTEAMS has %d workspaces with a bot token each: at most %d are supported", slackPrefix, len(s.Teams), maxSecrets-1)
	return wrong
}

// ownAlias returns the name by which the function invokes itself asynchronously.
func (r *reader) ownAlias(environ []string) string {
	for _, entry := range environ {
		if name, value, _ := strings.Cut(entry, "="); name == functionName && value != "" {
			own, _, _ := strings.Cut(value, ":") // the emulator sets a name with an alias
			return own + ":" + QueueAlias
		}
	}
	r.wrong = append(r.wrong, fmt.Errorf("%s is missing: Lambda sets it", functionName))
	return ""
}
