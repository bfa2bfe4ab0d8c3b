package bastion

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxReason is the maximum length of a reason, in characters.
const MaxReason = 200

var (
	namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)
	idPattern   = regexp.MustCompile(`^[a-z2-7]{16}$`)

	iamOwner   = regexp.MustCompile(`^iam:[0-9]{12}:[A-Z0-9]{16,128}(:[\w+=,.@-]{2,64})?$`)
	jwtOwner   = regexp.MustCompile(`^jwt:[!-"$-~]+#[!-~]{1,255}$`)
	slackOwner = regexp.MustCompile(`^slack:([A-Z0-9]{2,32}):([A-Z0-9]{2,32})$`)
	localOwner = regexp.MustCompile(`^local:[A-Za-z0-9][\w.@+-]{0,63}$`)
)

// ValidName reports whether a bastion can have the name: 1 to 32 characters
// from a-z, 0-9 and -, of which the first and the last are a letter or a digit.
// Such a name can be part of a Host in ssh_config, of a file name and of a Slack
// message.
func ValidName(name string) bool { return namePattern.MatchString(name) }

// HostAlias returns the Host of a bastion in the ssh_config that its owner gets.
func HostAlias(name string) string { return "bastion-" + name }

// ValidID reports whether the text has the form of a bastion's ID: 16
// characters of lower-case base32, without padding. Such an ID can be part of
// every AWS name and tag.
func ValidID(id string) bool { return idPattern.MatchString(id) }

// CleanReason returns the reason without the space around it. An empty reason
// is valid. *Error: CodeReasonInvalid, if the reason is longer than MaxReason or
// has a character that is not printable. Line ends (also U+2028) and characters
// that change the direction of writing are not printable. Such a character in a
// reason could disturb the display of a log line or a message.
func CleanReason(text string) (string, error) {
	text = strings.TrimSpace(text)
	unprintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if !utf8.ValidString(text) || utf8.RuneCountInString(text) > MaxReason || strings.ContainsFunc(text, unprintable) {
		return "", Errorf(CodeReasonInvalid, "A reason is one line of at most %d printable characters.", MaxReason)
	}
	return text, nil
}

// ValidOwner reports whether the text is an owner in one of these forms:
//
//	iam:ACCOUNT:ID            an IAM user, or all sessions of a role
//	iam:ACCOUNT:ID:SESSION    all sessions of a role that have this session name
//	jwt:ISSUER#SUBJECT        the subject of a token
//	slack:TEAM:USER           a user in a Slack workspace
//	local:NAME                a name in local mode
func ValidOwner(owner string) bool {
	for _, form := range []*regexp.Regexp{iamOwner, jwtOwner, slackOwner, localOwner} {
		if form.MatchString(owner) {
			return true
		}
	}
	return false
}

// SlackOwner returns the owner for a user in a Slack workspace.
func SlackOwner(team, user string) string { return "slack:" + team + ":" + user }

// ParseSlackOwner splits an owner of the form slack:TEAM:USER. For every other
// owner, ok is false.
func ParseSlackOwner(owner string) (team, user string, ok bool) {
	parts := slackOwner.FindStringSubmatch(owner)
	if parts == nil {
		return "", "", false
	}
	return parts[1], parts[2], true
}
