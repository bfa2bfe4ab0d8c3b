package deploy

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// The limits of stack tags, which CloudFormation puts on the stack's resources. A resource
// has at most 50 tags ("Tag naming limits and requirements" in the Tagging AWS Resources
// User Guide), of which the SAM transform sets one on each function, lambda:createdBy. The
// lengths are those of "Tag" in the CloudFormation API Reference. IAM does not distinguish
// the case of keys: "Rules for tagging in IAM and AWS STS" in the IAM User Guide.
const (
	maxTags     = 49
	maxTagKey   = 128
	maxTagValue = 256
)

// tagCharacters matches the characters that all services accept (same page), but no space,
// which separates the tags.
var tagCharacters = regexp.MustCompile(`^[\p{L}\p{N}_.:/=+@-]+$`)

// ParseTags reads the tags of the stacks, "Key=Value Key2=Value2", separated by spaces. A
// key ends at the first equals sign. Without any tag it returns nil. The error lists all
// problems.
func ParseTags(text string) (map[string]string, error) {
	var all map[string]string
	keys := map[string]string{} // by the key in lower case
	var wrong []error
	refuse := func(format string, args ...any) { wrong = append(wrong, fmt.Errorf("TAGS: "+format, args...)) }
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		if key == "" || value == "" {
			refuse("%q is not of the form Key=Value", word)
			continue
		}
		lower := strings.ToLower(key)
		if strings.HasPrefix(lower, "aws:") {
			refuse("%q: keys that begin with aws: are reserved for AWS", key)
		}
		if strings.HasPrefix(lower, "bastion:") {
			refuse("%q: keys that begin with bastion: are reserved for the groups and tasks of bastions", key)
		}
		if n := utf8.RuneCountInString(key); n > maxTagKey {
			refuse("the key %q has %d characters, and at most %d are allowed", key, n, maxTagKey)
		}
		if n := utf8.RuneCountInString(value); n > maxTagValue {
			refuse("the value of %s has %d characters, and at most %d are allowed", key, n, maxTagValue)
		}
		if !tagCharacters.MatchString(word) {
			refuse("%q: only letters, digits and the characters + - = . _ : / @ are allowed", word)
		}
		switch earlier, twice := keys[lower]; {
		case earlier == key:
			refuse("%s is set twice", key)
		case twice:
			refuse("%s and %s differ in case only, and IAM, which tags the roles, accepts one of them: remove one", earlier, key)
		}
		if all == nil {
			all = map[string]string{}
		}
		all[key], keys[lower] = value, key
	}
	if len(all) > maxTags {
		refuse("%d tags are set, and at most %d are allowed", len(all), maxTags)
	}
	return all, errors.Join(wrong...)
}
