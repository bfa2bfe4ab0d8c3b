package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// maxBody is the largest body in bytes: many times the largest key.
const maxBody = 64 << 10

// limited is the body of a request; it fails beyond maxBody bytes.
func limited(w http.ResponseWriter, r *http.Request) io.Reader {
	if r.Body == nil { // of a request that no server made
		return http.NoBody
	}
	return http.MaxBytesReader(w, r.Body, maxBody)
}

// readBody answers the body of a request, without the blanks around it. Nothing
// but publickey.LooksPrivate has looked at it before.
func readBody(r io.Reader) ([]byte, error) {
	body, err := io.ReadAll(r)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, bastion.Errorf(CodeBodyTooLarge, "The body is larger than %d KiB. Send one public key, or the JSON of one request.", maxBody>>10)
	case err != nil:
		return nil, &bastion.Error{Code: CodeBodyIncomplete, Message: "The body broke off. Send the request again.",
			Cause: fmt.Errorf("read body: %w", err)}
	case publickey.LooksPrivate(body):
		return nil, publickey.PrivateKeyError()
	}
	return bytes.Trim(body, " \t\r\n"), nil
}

// createRequest reads the body of POST: JSON if its first byte says so, whatever
// the content type, so that curl's default does no harm; else a public key as
// text; nothing, if it is empty.
func createRequest(body []byte) (bastion.CreateRequest, error) {
	var req bastion.CreateRequest
	switch {
	case len(body) == 0:
		return req, nil
	case body[0] != '{':
		key, err := publickey.Parse(string(body))
		req.Key = key
		return req, err
	}
	fields, err := parseObject(body, "public_key", "ttl", "reason", "source", "name")
	if err != nil {
		return req, err
	}
	return req, fillIn(&req, fields)
}

// fillIn reads the fields in the order in which the API lists them, up to the
// first that is malformed.
func fillIn(req *bastion.CreateRequest, fields map[string]string) (err error) {
	if text, given := fields["public_key"]; given {
		if req.Key, err = publickey.Parse(text); err != nil {
			return err
		}
	}
	if text, given := fields["ttl"]; given {
		ttl, err := bastion.ParseTTL(text)
		if err != nil {
			return err
		}
		req.TTL = &ttl
	}
	req.Reason = fields["reason"]
	if text, given := fields["source"]; given {
		if req.Source, err = parseSource(text); err != nil {
			return err
		}
	}
	name, given := fields["name"]
	if given && name == "" { // to the service it would mean: none was given
		return bastion.Errorf(bastion.CodeNameInvalid, "The name is empty. Give one, or leave the field out for the bastion called default.")
	}
	req.Name = name
	return nil
}

// extendTTL reads the body of PATCH.
func extendTTL(body []byte) (time.Duration, error) {
	var fields map[string]string
	if len(body) > 0 {
		var err error
		if fields, err = parseObject(body, "ttl"); err != nil {
			return 0, err
		}
	}
	text, given := fields["ttl"]
	if !given {
		return 0, bastion.Errorf(CodeTTLRequired, `It is not said for how long. Send {"ttl": "30m"}.`)
	}
	return bastion.ParseTTL(text)
}

// parseSource reads an address, which may be written as a prefix of its full
// length.
func parseSource(text string) (netip.Prefix, error) {
	addr, err := netip.ParseAddr(text)
	if before, bits, found := strings.Cut(text, "/"); found {
		addr, err = netip.ParseAddr(before)
		if err == nil && bits != fmt.Sprint(addr.BitLen()) {
			err = errors.New("more than one address")
		}
	}
	addr = addr.Unmap()
	if err != nil || addr.Zone() != "" || addr.IsUnspecified() || addr.IsMulticast() {
		return netip.Prefix{}, bastion.Errorf(bastion.CodeSourceInvalid, "The source %s is not one address. Name the single address that you connect from, like 203.0.113.7 or 2001:db8::7.", quoted(text))
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// quoted shows what somebody sent, shortened and with nothing in it that a
// terminal would act on.
func quoted(text string) string {
	const most = 40
	if runes := []rune(text); len(runes) > most {
		text = string(runes[:most]) + "…"
	}
	return fmt.Sprintf("%q", text)
}
