package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/bastion-on-demand/bastion/internal/bastion"
	"github.com/bastion-on-demand/bastion/internal/httpedge"
	"github.com/bastion-on-demand/bastion/internal/publickey"
)

// byteOrderMark is U+FEFF in UTF-8. Windows PowerShell writes it before JSON.
var byteOrderMark = []byte("\ufeff")

// readBody returns the body without a byte order mark and without the blanks around it.
// It first refuses a body that looks like a private key, so that nothing else reads it.
func (x *exchange) readBody() ([]byte, error) {
	body, err := x.Body()
	var known *bastion.Error
	switch {
	case errors.As(err, &known) && known.Code == httpedge.CodeBodyTooLarge:
		known.Message += " Send one public key, or one JSON object."
		return nil, err
	case err != nil:
		return nil, err
	case publickey.LooksPrivate(body):
		return nil, publickey.PrivateKeyError()
	}
	body = bytes.Trim(bytes.TrimPrefix(body, byteOrderMark), " \t\r\n")
	if publickey.IsUTF16(string(body)) && beginsJSON(body) {
		return nil, bastion.Errorf(CodeJSONInvalid, "The body is JSON in UTF-16. Send it in UTF-8; in PowerShell: Get-Content body.json | Set-Content -Encoding utf8 body-utf8.json.")
	}
	return body, nil
}

// beginsJSON reports whether the first printable ASCII character is that of an object or
// an array, in whatever encoding.
func beginsJSON(body []byte) bool {
	i := bytes.IndexFunc(body, func(r rune) bool { return r > ' ' && r < utf8.RuneSelf })
	return i >= 0 && (body[i] == '{' || body[i] == '[')
}

// createRequest reads the body of POST: JSON if the first byte says so, whatever
// the content type is (curl's default is wrong); otherwise a public key as text.
// The body may be empty.
func createRequest(body []byte) (bastion.CreateRequest, error) {
	var req bastion.CreateRequest
	switch {
	case len(body) == 0:
		return req, nil
	case body[0] != '{' && body[0] != '[':
		key, err := publickey.Parse(string(body))
		req.Key = key
		return req, err
	}
	fields, err := parseObject(body, "public_key", "ttl", "reason", "source", "only_key", "name")
	if err != nil {
		return req, err
	}
	return req, fillIn(&req, fields)
}

// fillIn reads the fields in the order in which the API lists them, up to the
// first malformed one.
func fillIn(req *bastion.CreateRequest, fields map[string]field) (err error) {
	if key, given := fields["public_key"]; given {
		if req.Key, err = publickey.Parse(key.text); err != nil {
			return err
		}
	}
	if given, ok := fields["ttl"]; ok {
		ttl, err := bastion.ParseTTL(given.text)
		if err != nil {
			return err
		}
		req.TTL = &ttl
	}
	if req.Reason, err = bastion.CleanReason(fields["reason"].text); err != nil {
		return err
	}
	if source, given := fields["source"]; given {
		if req.Sources, err = parseSources(source.list); err != nil {
			return err
		}
	}
	req.OnlyKey = fields["only_key"].yes
	name, given := fields["name"]
	if given && name.text == "" { // the service would use the default
		return bastion.Errorf(bastion.CodeNameInvalid, "The name is empty. Give one, or leave the field out for the bastion called default.")
	}
	req.Name = name.text
	return nil
}

// extendTTL reads the body of PATCH.
func extendTTL(body []byte) (time.Duration, error) {
	var fields map[string]field
	if len(body) > 0 {
		var err error
		if fields, err = parseObject(body, "ttl"); err != nil {
			return 0, err
		}
	}
	ttl, given := fields["ttl"]
	if !given {
		return 0, bastion.Errorf(CodeTTLRequired, `ttl is missing. Send {"ttl": "30m"}.`)
	}
	return bastion.ParseTTL(ttl.text)
}

// parseSources reads the source of a request: one or several addresses or prefixes.
func parseSources(texts []string) (sources []netip.Prefix, err error) {
	if len(texts) == 0 {
		return nil, bastion.Errorf(bastion.CodeSourceInvalid, "The list of sources is empty. Name at least one, or leave the field out for the address that you call from.")
	}
	for _, text := range texts {
		source, err := parseSource(text)
		if err != nil {
			return nil, err
		}
		sources = append(sources, source)
	}
	return sources, nil
}

// parseSource reads an address or a prefix, and masks it. IPv4 addresses that are mapped
// to IPv6 become IPv4.
func parseSource(text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	addr, notAddr := netip.ParseAddr(text)
	if notAddr == nil {
		p, err = netip.PrefixFrom(addr.WithZone(""), addr.BitLen()), nil
	}
	if mapped := p.Bits() - 96; p.Addr().Is4In6() && mapped >= 0 {
		p = netip.PrefixFrom(p.Addr().Unmap(), mapped)
	}
	var wrong string
	switch {
	case err != nil || p.Addr().Is4In6():
		wrong = "is neither an address nor a prefix"
	case addr.Zone() != "":
		wrong = "has a zone, which means something on one machine only"
	case p.Bits() == 0:
		wrong = "contains all addresses"
	case p.Addr().IsMulticast() || p.Addr().IsUnspecified() && p.IsSingleIP():
		wrong = "is not an address of a machine"
	default:
		return p.Masked(), nil
	}
	return netip.Prefix{}, bastion.Errorf(bastion.CodeSourceInvalid, "The source %s %s. Give the address that you connect from, such as 203.0.113.7 or 2001:db8::7, or a prefix, such as 203.0.113.0/28.", bastion.QuoteShort(text), wrong)
}

// field is the value of one field of a body. Which part is set depends on the field.
type field struct {
	text string
	list []string // of source, which is a string or a list of strings
	yes  bool     // of only_key, which is a boolean
}

// parseObject reads a JSON object whose fields are all optional. It accepts no other
// fields, no field twice and nothing after the object: a misspelt field must not silently
// mean something else.
func parseObject(body []byte, known ...string) (map[string]field, error) {
	if body[0] != '{' {
		return nil, bastion.Errorf(CodeJSONInvalid, "The body is not a JSON object, which begins with {. Send one like %s.", example(known))
	}
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	fields := map[string]field{}
	if _, err := dec.Token(); err != nil { // the brace
		return nil, err // the body is valid JSON, so this cannot happen; nor can the errors below
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err
		}
		if err := readField(dec, fields, name.(string), known); err != nil {
			return nil, err
		}
	}
	return fields, nil
}

func readField(dec *json.Decoder, fields map[string]field, name string, known []string) error {
	if !slices.Contains(known, name) {
		return bastion.Errorf(CodeUnknownField, "Unknown field %s. Known fields: %s.", bastion.QuoteShort(name), strings.Join(known, ", "))
	}
	if _, twice := fields[name]; twice {
		return bastion.Errorf(CodeFieldInvalid, "Duplicate field %s.", name)
	}
	var raw json.RawMessage
	if err := dec.Decode(&raw); err != nil {
		return err
	}
	if name != "public_key" { // the comment of a key may have any bytes, because it is dropped
		if err := checkText(raw); err != nil {
			return err
		}
	}
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return err
	}
	read, wrong := fieldOf(name, value)
	if wrong != "" {
		return bastion.Errorf(CodeFieldInvalid, "The field %s must be %s. Correct it, or leave it out.", name, wrong)
	}
	fields[name] = read
	return nil
}

// fieldOf returns the value of a field. If the value has the wrong form, fieldOf returns
// what the form must be.
func fieldOf(name string, value any) (read field, wrong string) {
	switch v := value.(type) {
	case string:
		if name == "only_key" {
			return field{}, "true or false, without quotes"
		}
		return field{text: v, list: []string{v}}, ""
	case bool:
		if name == "only_key" {
			return field{yes: v}, ""
		}
	case []any:
		for _, element := range v {
			text, ok := element.(string)
			if !ok {
				break
			}
			read.list = append(read.list, text)
		}
		if name == "source" && len(read.list) == len(v) {
			return read, ""
		}
	}
	switch name {
	case "only_key":
		return field{}, "true or false"
	case "source":
		return field{}, "a string or a list of strings: quote each address"
	}
	return field{}, "a string: quote its value"
}

// checkJSON refuses a body that is not exactly one JSON value.
func checkJSON(body []byte) error {
	var syntax *json.SyntaxError
	var value json.RawMessage
	if err := json.Unmarshal(body, &value); errors.As(err, &syntax) {
		return bastion.Errorf(CodeJSONInvalid, "The body is not valid JSON: unexpected character at byte %d of %d.", syntax.Offset, len(body))
	}
	return nil
}

// checkText refuses a JSON value that encoding/json would change silently, because it is
// not valid UTF-8 or has half of a surrogate pair.
func checkText(value []byte) error {
	if !utf8.Valid(value) {
		return bastion.Errorf(CodeJSONInvalid, "The body is not valid UTF-8, which JSON requires.")
	}
	if escape := loneSurrogate(value); escape != "" {
		return bastion.Errorf(CodeJSONInvalid, "The body has the escape %s, which is only one half of a surrogate pair. Send both halves, or the character itself.", escape)
	}
	return nil
}

// surrogates matches each escape in valid JSON: a pair of surrogates in group 1, a
// single surrogate in group 2, and any other escape in no group. It must match the other
// escapes too: in \\ud800 the first two characters are an escape, and ud800 is text.
var surrogates = regexp.MustCompile(`(?i)(\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2})|(\\ud[89a-f][0-9a-f]{2})|\\.`)

// loneSurrogate returns an escape that is half of a surrogate pair, or the empty
// string.
func loneSurrogate(value []byte) string {
	for _, match := range surrogates.FindAllSubmatch(value, -1) {
		if len(match[2]) > 0 {
			return string(match[2])
		}
	}
	return ""
}

func example(fields []string) string {
	if slices.Contains(fields, "public_key") {
		return `{"public_key": "ssh-ed25519 AAAA…", "ttl": "1h"}`
	}
	return `{"ttl": "30m"}`
}
