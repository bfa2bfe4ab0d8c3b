package publickey

import (
	"regexp"
	"slices"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// options are the names that sshd(8) lists under "AUTHORIZED_KEYS FILE FORMAT".
var options = []string{
	"agent-forwarding", "cert-authority", "command", "environment", "expiry-time",
	"from", "no-agent-forwarding", "no-port-forwarding", "no-pty",
	"no-touch-required", "no-user-rc", "no-x11-forwarding", "permitlisten",
	"permitopen", "port-forwarding", "principals", "pty", "restrict", "tunnel",
	"user-rc", "verify-required", "x11-forwarding",
}

// refuseFirstField says what is wrong with a line that does not begin with the
// name of an accepted type. fields has at least one element.
func refuseFirstField(fields []string) error {
	first := fields[0]
	switch {
	case strings.HasSuffix(first, "-cert-v01@openssh.com"):
		return bastion.Errorf(CodeCertificate, "This is a certificate. Send the public key itself: the .pub file without -cert in its name.")
	case isOption(first):
		return bastion.Errorf(CodeOptions, "There are options before the public key. Send the key only, from its type on.")
	case keyType.MatchString(first):
		return bastion.Errorf(CodeType, "Keys of this type are not taken. Taken are %s. Make one: ssh-keygen -t ed25519.", strings.Join(accepted, ", "))
	case slices.ContainsFunc(fields[1:], isBlob):
		return bastion.Errorf(CodeInvalid, "Something stands before the public key. The line must begin with its type, for example ssh-ed25519.")
	case isBlob(first):
		return bastion.Errorf(CodeInvalid, "The type before the public key is missing. Send the whole line of the .pub file.")
	}
	return bastion.Errorf(CodeInvalid, "This is not a public key. Send the line of a .pub file: its type, for example ssh-ed25519, a space, and the key in base64.")
}

func isOption(field string) bool {
	end := strings.IndexAny(field, "=,")
	if end < 0 {
		end = len(field)
	}
	return slices.Contains(options, strings.ToLower(field[:end]))
}

// keyType is how OpenSSH names types of keys.
var keyType = regexp.MustCompile(`^(ssh|ecdsa|sk|webauthn)-[a-z0-9@.-]+$`)
