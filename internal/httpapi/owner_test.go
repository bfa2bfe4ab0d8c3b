package httpapi_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/aws/aws-lambda-go/events"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpapi"
)

const (
	account = "111122223333"
	aUser   = "AIDAEXAMPLEEXAMPLE111"
	aRole   = "AROAEXAMPLEEXAMPLE222"
	ssoRole = "AWSReservedSSO_Developer_0123456789abcdef"
	issuer  = "https://issuer.example/pool"
)

type (
	authorizer = events.APIGatewayV2HTTPRequestContextAuthorizerDescription
	iam        = events.APIGatewayV2HTTPRequestContextAuthorizerIAMDescription
	jwt        = events.APIGatewayV2HTTPRequestContextAuthorizerJWTDescription
)

func user(path, id string) *authorizer {
	return &authorizer{IAM: &iam{AccountID: account, UserARN: "arn:aws:iam::" + account + ":user/" + path, UserID: id, CallerID: id}}
}

func session(role, name string) *authorizer {
	id := aRole + ":" + name
	return &authorizer{IAM: &iam{AccountID: account, UserARN: "arn:aws:sts::" + account + ":assumed-role/" + role + "/" + name, UserID: id, CallerID: id}}
}

func tokenOf(iss, sub string) *authorizer {
	return &authorizer{JWT: &jwt{Claims: map[string]string{"iss": iss, "sub": sub}}}
}

func raw(arn, id string) *authorizer {
	return &authorizer{IAM: &iam{AccountID: account, UserARN: arn, UserID: id, CallerID: id}}
}

// callerOf returns the caller of a context with that authorizer.
func callerOf(o httpapi.Owners, who *authorizer) (bastion.Caller, error) {
	return o.Caller(events.APIGatewayV2HTTPRequestContext{
		AccountID: account, Authorizer: who,
		HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{SourceIP: "203.0.113.7"},
	})
}

var (
	byIAM = httpapi.Owners{TrustedRoles: []string{"AWSReservedSSO_*", "Login"}}
	byJWT = httpapi.Owners{JWTIssuer: issuer}
)

func TestOwners(t *testing.T) {
	for _, test := range []struct {
		name   string
		owners httpapi.Owners
		who    *authorizer
		want   string
	}{
		{"a user", byIAM, user("alice", aUser), "iam:111122223333:AIDAEXAMPLEEXAMPLE111"},
		{"a user with a path", byIAM, user("team/data/alice", aUser), "iam:111122223333:AIDAEXAMPLEEXAMPLE111"},
		{"an SSO role: its sessions are people", byIAM, session(ssoRole, "alice@example.com"), "iam:111122223333:AROAEXAMPLEEXAMPLE222:alice@example.com"},
		{"a role named as trusted", byIAM, session("Login", "alice"), "iam:111122223333:AROAEXAMPLEEXAMPLE222:alice"},
		{"another role: the role is the owner", byIAM, session("Deploy", "alice"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"a session of another role is the role", byIAM, session("Deploy", "bob"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"a web identity's session is a session of a role", byIAM, session("GitHub", "GitHubActions"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"an identity pool's session too", byIAM, session("Pool_Auth", "CognitoIdentityCredentials"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"nothing is trusted when nothing is named", httpapi.Owners{}, session(ssoRole, "alice"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"a star alone trusts nothing", httpapi.Owners{TrustedRoles: []string{"*"}}, session("Deploy", "alice"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"the name is not a prefix without a star", byIAM, session("Login2", "alice"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"a role that only mentions SSO", byIAM, session("My_AWSReservedSSO_X", "alice"), "iam:111122223333:AROAEXAMPLEEXAMPLE222"},
		{"the other partitions", byIAM, raw("arn:aws-us-gov:iam::111122223333:user/alice", aUser), "iam:111122223333:AIDAEXAMPLEEXAMPLE111"},
		{"a token", byJWT, tokenOf(issuer, "248289761001"), "jwt:https://issuer.example/pool#248289761001"},
		{"a token whose subject looks like an ARN", byJWT, tokenOf(issuer, "arn:aws:iam::111122223333:user/alice"), "jwt:https://issuer.example/pool#arn:aws:iam::111122223333:user/alice"},
		{"a token whose subject looks like an owner", byJWT, tokenOf(issuer, "iam:111122223333:"+aUser), "jwt:https://issuer.example/pool#iam:111122223333:" + aUser},
		{"a token whose subject holds separators", byJWT, tokenOf(issuer, "a#b:c/d"), "jwt:https://issuer.example/pool#a#b:c/d"},
	} {
		got, err := callerOf(test.owners, test.who)
		want := bastion.Caller{Owner: test.want, Address: netip.MustParseAddr("203.0.113.7")}
		if err != nil || got != want {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", test.name, got, err, want)
		}
	}
}

func TestUnclearIdentityIsRefused(t *testing.T) {
	both := user("alice", aUser)
	both.JWT = tokenOf(issuer, "alice").JWT
	lambda := user("alice", aUser)
	lambda.Lambda = map[string]any{"owner": "iam:111122223333:" + aUser}
	foreign := user("alice", aUser)
	foreign.IAM.AccountID = "444455556666"
	const asRole = "arn:aws:sts::111122223333:assumed-role/"
	for _, test := range []struct {
		name   string
		owners httpapi.Owners
		who    *authorizer
		want   string // in the error
	}{
		{"no authorizer", byIAM, nil, "names no caller"},
		{"an empty one", byIAM, &authorizer{}, "names no caller"},
		{"both", byIAM, both, "more than one"},
		{"both, where tokens are taken", byJWT, both, "more than one"},
		{"an authorizer of the Lambda kind beside", byIAM, lambda, "more than one"},
		{"an authorizer of the Lambda kind", byIAM, &authorizer{Lambda: map[string]any{"owner": "x"}}, "names no caller"},
		{"IAM where tokens are taken", byJWT, user("alice", aUser), "only tokens"},
		{"a token where IAM is", byIAM, tokenOf(issuer, "alice"), "only IAM"},
		{"a token without issuer, with IAM", byIAM, tokenOf("", "alice"), "only IAM"},
		{"a token of another issuer", byJWT, tokenOf("https://evil.example/", "alice"), "not from https://issuer.example/pool"},
		{"a token of an issuer that begins alike", byJWT, tokenOf(issuer+"2", "alice"), "not from"},
		{"a token without a subject", byJWT, tokenOf(issuer, ""), "cannot be an owner"},
		{"a subject with a line break", byJWT, tokenOf(issuer, "alice\nbob"), "cannot be an owner"},
		{"a subject with a terminal's escape", byJWT, tokenOf(issuer, "alice\x1b[2K"), "cannot be an owner"},
		{"a subject in look-alike letters", byJWT, tokenOf(issuer, "аlice"), "cannot be an owner"},
		{"a subject without end", byJWT, tokenOf(issuer, strings.Repeat("a", 256)), "cannot be an owner"},
		{"the account's root", byIAM, raw("arn:aws:iam::111122223333:root", account), "forbidden"},
		{"a federated user", byIAM, raw("arn:aws:sts::111122223333:federated-user/alice", account+":alice"), "forbidden"},
		{"a user without an id", byIAM, user("alice", ""), "unknown kind of caller"},
		{"a user with a role's id", byIAM, user("alice", aRole), "unknown kind of caller"},
		{"a user with a session", byIAM, user("alice", aUser+":bob"), "unknown kind of caller"},
		{"a session with a user's id", byIAM, raw(asRole+"Login/alice", aUser+":alice"), "unknown kind of caller"},
		{"two session names", byIAM, raw(asRole+"Login/alice", aRole+":bob"), "unknown kind of caller"},
		{"a session without a name", byIAM, raw(asRole+"Login", aRole), "unknown kind of caller"},
		{"a session name with a colon", byIAM, session("Login", "alice:admin"), "unknown kind of caller"},
		{"a session name with a slash", byIAM, session("Login", "alice/bob"), "unknown kind of caller"},
		{"a session name with a hash", byIAM, session("Login", "alice#bob"), "unknown kind of caller"},
		{"a session name with a line break", byIAM, session("Login", "alice\n"), "unknown kind of caller"},
		{"a role name with a slash", byIAM, raw(asRole+"team/Login/alice", aRole+":alice"), "unknown kind of caller"},
		{"a role name with a space", byIAM, session("Log in", "alice"), "unknown kind of caller"},
		{"an account that is not the ARN's", byIAM, foreign, "unknown kind of caller"},
		{"no account", byIAM, &authorizer{IAM: &iam{UserARN: "arn:aws:iam:::user/alice", UserID: aUser}}, "unknown kind of caller"},
		{"an ARN with a colon in the name", byIAM, raw("arn:aws:iam::111122223333:user", aUser), "unknown kind of caller"},
		{"no ARN", byIAM, raw("", aUser), "unknown kind of caller"},
		{"a service", byIAM, raw("arn:aws:sts::111122223333:service/lambda", aRole), "unknown kind of caller"},
	} {
		got, err := callerOf(test.owners, test.who)
		if err == nil || !strings.Contains(err.Error(), test.want) || got.Owner != "" || got.Admin {
			t.Errorf("%s: %+v, %v; want an error with %q", test.name, got, err, test.want)
		}
	}
	if _, err := byIAM.Caller(events.APIGatewayV2HTTPRequestContext{Authorizer: user("alice", aUser)}); err == nil {
		t.Error("a context without a source address has a caller")
	}
	var known *bastion.Error
	if _, err := callerOf(byIAM, raw("arn:aws:iam::111122223333:root", account)); !errors.As(err, &known) || known.Code != httpapi.CodeForbidden {
		t.Errorf("the error for the root user is %v", err)
	}
}

// A role of another account may have any name.
func TestSessionsOfForeignRolesAreNotTrusted(t *testing.T) {
	got, err := byIAM.Caller(events.APIGatewayV2HTTPRequestContext{
		AccountID: "444455556666", Authorizer: session(ssoRole, "alice@example.com"),
		HTTP: events.APIGatewayV2HTTPRequestContextHTTPDescription{SourceIP: "203.0.113.7"},
	})
	if want := "iam:111122223333:" + aRole; err != nil || got.Owner != want {
		t.Errorf("%+v, %v; want %s", got, err, want)
	}
}

func TestAdmins(t *testing.T) {
	for _, test := range []struct {
		name  string
		admin string
		who   *authorizer
		want  bool
	}{
		{"a user by id", "iam:111122223333:" + aUser, user("alice", aUser), true},
		{"a user by ARN", "arn:aws:iam::111122223333:user/team/alice", user("team/alice", aUser), true},
		{"a role by ID, with any session", "iam:111122223333:" + aRole, session("Login", "alice"), true},
		{"a role by ARN", "arn:aws:iam::111122223333:role/Login", session("Login", "alice"), true},
		{"a role by ARN with its path", "arn:aws:iam::111122223333:role/aws-reserved/sso.amazonaws.com/eu-west-1/" + ssoRole, session(ssoRole, "alice"), true},
		{"no ARN of a user with another path", "arn:aws:iam::111122223333:user/alice", user("team/alice", aUser), false},
		{"no ARN of a session", "arn:aws:sts::111122223333:assumed-role/Login/alice", session("Login", "alice"), false},
		{"no session's owner", "iam:111122223333:" + aRole + ":alice", session("Login", "alice"), false},
		{"no session that is named like a user", "arn:aws:iam::111122223333:user/alice", session("Login", "alice"), false},
		{"no session that is named like an admin's id", "iam:111122223333:" + aUser, session("Login", aUser), false},
		{"no role that is named like a user", "arn:aws:iam::111122223333:user/alice", session("alice", "alice"), false},
		{"no user who is named like a role", "arn:aws:iam::111122223333:role/Login", user("Login", aUser), false},
		{"no user whose path ends like a role", "arn:aws:iam::111122223333:role/Login", user("role/Login", aUser), false},
		{"no role of another account", "arn:aws:iam::444455556666:role/Login", session("Login", "alice"), false},
		{"no role that begins alike", "arn:aws:iam::111122223333:role/Log", session("Login", "alice"), false},
		{"no other case", "arn:aws:iam::111122223333:role/login", session("Login", "alice"), false},
		{"no user by a role without a name", "arn:aws:iam::111122223333:role/", user("alice", aUser), false},
		{"an empty entry matches no caller", "", session("Login", "alice"), false},
	} {
		o := byIAM
		o.Admins = []string{test.admin}
		got, err := callerOf(o, test.who)
		if err != nil || got.Admin != test.want {
			t.Errorf("%s: %+v, %v; want admin %t", test.name, got, err, test.want)
		}
	}
	o := byJWT
	o.Admins = []string{"jwt:" + issuer + "#alice", ""}
	if got, err := callerOf(o, tokenOf(issuer, "")); err == nil || got.Admin {
		t.Errorf("the caller is an admin: %+v, %v", got, err)
	}
	for subject, want := range map[string]bool{"alice": true, "Alice": false, "alice2": false} {
		if got, err := callerOf(o, tokenOf(issuer, subject)); err != nil || got.Admin != want {
			t.Errorf("subject %s: %+v, %v; want admin %t", subject, got, err, want)
		}
	}
}
