package httpapi

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// Owners turns what API Gateway's authorizer found out into a caller.
//
// What decides is the unique id (AIDA… of a user, AROA… of a role), which AWS
// makes up, never gives out again, and nobody chooses. A role's session name is
// whatever its assumer wrote, so it tells people apart only for roles where an
// identity provider writes it: those of IAM Identity Center by default. The name
// of a role is no proof that Identity Center made it (an assumed role's ARN has
// no path), and need not be: the role's unique id is part of the owner, so a role
// of a deceiving name makes owners of its own and can be nobody else's.
type Owners struct {
	// TrustedRoles are names of roles of this account whose session names tell
	// people apart; one may end in * for any rest.
	TrustedRoles []string
	// Admins are users, roles and token subjects: iam:ACCOUNT:ID, the ARN of a
	// user or role, or jwt:ISSUER#SUBJECT. No session is an admin by itself.
	Admins []string
	// JWTIssuer is the one whose tokens are taken. Empty: requests are signed with
	// IAM credentials, and no token is taken.
	JWTIssuer string
}

var (
	accountID = regexp.MustCompile(`^\d{12}$`)
	uniqueID  = regexp.MustCompile(`^[A-Z0-9]{16,128}$`)
	// What STS takes as a RoleSessionName. There is no ':', '/' or '#' in it, so
	// that an owner can be read in one way only.
	sessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)
	iamName     = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)
)

// Caller says who made a request: from its context alone, which API Gateway
// writes. Headers, path and body are the caller's own words and are not looked
// at.
func (o Owners) Caller(rc events.APIGatewayV2HTTPRequestContext) (bastion.Caller, error) {
	address, err := netip.ParseAddr(rc.HTTP.SourceIP)
	if err != nil {
		return bastion.Caller{}, fmt.Errorf("source address of the event: %w", err)
	}
	caller := bastion.Caller{Address: address}
	who := rc.Authorizer
	switch {
	case who == nil || who.IAM == nil && who.JWT == nil:
		return caller, errors.New("the event names no caller")
	case who.IAM != nil && who.JWT != nil || who.Lambda != nil:
		return caller, errors.New("the event names more than one caller")
	case who.JWT != nil:
		caller.Owner, err = o.subject(who.JWT.Claims)
		caller.Admin = err == nil && slices.Contains(o.Admins, caller.Owner)
		return caller, err
	case o.JWTIssuer != "":
		return caller, fmt.Errorf("the event names an IAM caller, where only tokens of %s are taken", o.JWTIssuer)
	}
	p, err := parsePrincipal(who.IAM)
	if err != nil {
		return caller, err
	}
	caller.Owner = p.owner()
	if p.role != "" && p.account == rc.AccountID && o.trusts(p.role) {
		caller.Owner += ":" + p.session
	}
	caller.Admin = slices.ContainsFunc(o.Admins, p.isNamedBy)
	return caller, nil
}

// subject is the owner that a token speaks for. The issuer is part of it, so that
// a subject may look like anything.
func (o Owners) subject(claims map[string]string) (string, error) {
	issuer, subject := claims["iss"], claims["sub"]
	switch {
	case o.JWTIssuer == "":
		return "", errors.New("the event names a token's subject, where only IAM callers are taken")
	case issuer != o.JWTIssuer:
		return "", fmt.Errorf("the token is from %q, not from %s", issuer, o.JWTIssuer)
	case subject == "" || len(subject) > 255 || strings.ContainsFunc(subject, notPlain):
		return "", fmt.Errorf("the token's subject %q cannot be an owner", subject)
	}
	return "jwt:" + issuer + "#" + subject, nil
}

// notPlain holds of what a log line or a terminal could be deceived with. OpenID
// Connect says that a subject is at most 255 ASCII characters.
func notPlain(r rune) bool { return r <= ' ' || r > '~' }

// trusts reports whether a role's session names tell people apart.
func (o Owners) trusts(role string) bool {
	return slices.ContainsFunc(o.TrustedRoles, func(name string) bool {
		if start, open := strings.CutSuffix(name, "*"); open {
			return start != "" && strings.HasPrefix(role, start)
		}
		return name == role
	})
}

// principal is an IAM user, or a session of a role.
type principal struct {
	account string
	id      string // AIDA… or AROA…
	userARN string // of a user
	role    string // of a session: the role's name
	session string
}

func (p principal) owner() string { return "iam:" + p.account + ":" + p.id }

// isNamedBy reports whether an entry of the admins is this user, or this
// session's role. Names of roles are unique in an account whatever their path,
// which a session's ARN does not tell.
func (p principal) isNamedBy(admin string) bool {
	if admin == p.owner() || p.userARN != "" && admin == p.userARN {
		return true
	}
	service, kind, name := cutARN(admin, p.account)
	return p.role != "" && service == "iam" && kind == "role" && name[strings.LastIndex(name, "/")+1:] == p.role
}

// parsePrincipal reads what the authorizer says of an IAM caller. It says things
// twice; they must agree. userArn and userId are, as STS GetCallerIdentity
// answers them:
//
//	user      arn:aws:iam::ACCOUNT:user/PATH/NAME              AIDA…
//	session   arn:aws:sts::ACCOUNT:assumed-role/NAME/SESSION   AROA…:SESSION
//	root      arn:aws:iam::ACCOUNT:root                        ACCOUNT
//	federated arn:aws:sts::ACCOUNT:federated-user/NAME         ACCOUNT:NAME
//
// The account's root is nobody in particular, and a federated user's name is its
// maker's choice: both are known, and not let in.
func parsePrincipal(iam *events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription) (principal, error) {
	p := principal{account: iam.AccountID}
	ok := false
	service, kind, name := cutARN(iam.UserARN, iam.AccountID)
	switch service + " " + kind {
	case "iam user":
		p.id, p.userARN = iam.UserID, iam.UserARN
		ok = strings.HasPrefix(p.id, "AIDA") && name != ""
	case "sts assumed-role":
		var again string
		p.role, p.session, _ = strings.Cut(name, "/")
		p.id, again, _ = strings.Cut(iam.UserID, ":")
		ok = strings.HasPrefix(p.id, "AROA") && iamName.MatchString(p.role) && sessionName.MatchString(p.session) && again == p.session
	case "iam root", "sts federated-user":
		return p, bastion.Errorf(CodeForbidden, "You call as the account's root or as a federated user, which is nobody in particular. Call as an IAM user or with a role.")
	}
	if !ok || !accountID.MatchString(p.account) || !uniqueID.MatchString(p.id) {
		return p, fmt.Errorf("it is not clear who %q with the id %q of account %q is", iam.UserARN, iam.UserID, iam.AccountID)
	}
	return p, nil
}

// cutARN splits arn:PARTITION:SERVICE::ACCOUNT:KIND/NAME; the name may be missing.
// Of anything else, and of another account, it answers nothing.
func cutARN(arn, account string) (service, kind, name string) {
	parts := strings.SplitN(arn, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[1] == "" || parts[3] != "" || parts[4] != account {
		return "", "", ""
	}
	kind, name, _ = strings.Cut(parts[5], "/")
	return parts[2], kind, name
}
