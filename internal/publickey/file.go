package publickey

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// begin is how a PEM file begins.
const begin = "-----BEGIN "

// asPEM changes a file in the format of RFC 4716 into PEM: it has other first and last
// lines, three kinds of line ends, and a backslash at the end of a header line that the
// next line continues (sections 3.1 to 3.3). It leaves a PEM file as it is, except for
// its line ends.
var asPEM = strings.NewReplacer(
	"\\\r\n", "", "\\\n", "", "\\\r", "", "\r\n", "\n", "\r", "\n",
	"---- BEGIN SSH2 PUBLIC KEY ----", "-----BEGIN SSH2 PUBLIC KEY-----",
	"---- END SSH2 PUBLIC KEY ----", "-----END SSH2 PUBLIC KEY-----",
)

// fromFile converts a key file that begins with dashes to the line of a .pub file.
// PuTTYgen writes RFC 4716, and OpenSSL writes PEM; ssh-keygen -e writes both.
func fromFile(file string) (string, error) {
	file = asPEM.Replace(file)
	if strings.Count("\n"+file, "\n"+begin) > 1 {
		return "", errTwo()
	}
	first, _, _ := strings.Cut(file, "\n")
	switch label, _, _ := strings.Cut(strings.TrimPrefix(first, begin), "-"); label {
	case "SSH2 PUBLIC KEY", "PUBLIC KEY", "RSA PUBLIC KEY":
	case "CERTIFICATE", "TRUSTED CERTIFICATE", "X509 CERTIFICATE":
		return "", bastion.Errorf(CodeCertificate, "This is an X.509 certificate. Send its public key: openssl x509 -in FILE -noout -pubkey.")
	case "PGP PUBLIC KEY BLOCK":
		return "", bastion.Errorf(CodeInvalid, "This is an OpenPGP key. Send its key for SSH: gpg --export-ssh-key KEY-ID.")
	default:
		return "", bastion.Errorf(CodeInvalid, "This is not a public key: the file begins with %s. Send the .pub file; to write it again: ssh-keygen -y -f PRIVATE-KEY-FILE.", bastion.QuoteShort(first))
	}
	block, rest := pem.Decode([]byte(file))
	switch {
	case block == nil:
		return "", bastion.Errorf(CodeInvalid, "The public key file is damaged. Send all its lines, from BEGIN to END, with their line ends.")
	case countKeys(strings.Split(string(rest), "\n")) > 0:
		return "", errTwo()
	case len(bytes.TrimSpace(rest)) > 0:
		return "", bastion.Errorf(CodeInvalid, "There is text after the END line of the public key. Send only the key.")
	}
	return fromBlock(block)
}

// fromBlock returns the contents of a public key file as the line of a .pub file.
func fromBlock(block *pem.Block) (string, error) {
	var key any
	var err error
	switch block.Type {
	case "SSH2 PUBLIC KEY": // the same bytes as in a .pub file
		var name struct {
			Type string
			Rest []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(block.Bytes, &name) != nil || !keyType.MatchString(name.Type) {
			return "", errDamaged()
		}
		return name.Type + " " + base64.StdEncoding.EncodeToString(block.Bytes), nil
	case "RSA PUBLIC KEY":
		key, err = x509.ParsePKCS1PublicKey(block.Bytes)
	default:
		key, err = x509.ParsePKIXPublicKey(block.Bytes)
	}
	if err != nil {
		return "", errDamaged()
	}
	public, err := ssh.NewPublicKey(key)
	if err != nil { // SSH has no such type of key
		return "", errType()
	}
	return string(Of(public)), nil
}

func errDamaged() error {
	return bastion.Errorf(CodeInvalid, "The public key file is damaged, or its type of key isn't supported. Supported types: %s. Create a key: ssh-keygen -t ed25519.", strings.Join(supported, ", "))
}
