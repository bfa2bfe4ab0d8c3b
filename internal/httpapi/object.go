package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// parseObject reads a JSON object whose fields are strings, all optional. It
// takes no other fields, none twice and nothing behind it: what a person
// misspelt must not silently mean something else.
func parseObject(body []byte, known ...string) (map[string]string, error) {
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if open, err := dec.Token(); err != nil || open != json.Delim('{') {
		return nil, bastion.Errorf(CodeJSONInvalid, "The body is not a JSON object. Send one like %s.", example(known))
	}
	fields := map[string]string{}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return nil, err // the body is valid JSON, so there is none
		}
		if err := readField(dec, fields, name.(string), known); err != nil {
			return nil, err
		}
	}
	return fields, nil
}

func readField(dec *json.Decoder, fields map[string]string, name string, known []string) error {
	if !slices.Contains(known, name) {
		return bastion.Errorf(CodeUnknownField, "There is no field %s here. Known are %s.", quoted(name), strings.Join(known, ", "))
	}
	if _, twice := fields[name]; twice {
		return bastion.Errorf(CodeFieldInvalid, "The field %s is given twice. Leave one out.", name)
	}
	var value any
	if err := dec.Decode(&value); err != nil {
		return err // as above
	}
	text, ok := value.(string)
	if !ok {
		return bastion.Errorf(CodeFieldInvalid, "The field %s must be a string: put its value in quotes, or leave it out.", name)
	}
	fields[name] = text
	return nil
}

// checkJSON refuses what is not exactly one JSON value in UTF-8.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return bastion.Errorf(CodeJSONInvalid, "The body is not UTF-8, as JSON must be.")
	}
	var syntax *json.SyntaxError
	var value json.RawMessage
	if err := json.Unmarshal(body, &value); errors.As(err, &syntax) {
		return bastion.Errorf(CodeJSONInvalid, "The body is not valid JSON: byte %d of %d is not what belongs there.", syntax.Offset, len(body))
	}
	return nil
}

func example(fields []string) string {
	if slices.Contains(fields, "public_key") {
		return `{"public_key": "ssh-ed25519 AAAA…", "ttl": "1h"}`
	}
	return `{"ttl": "30m"}`
}
