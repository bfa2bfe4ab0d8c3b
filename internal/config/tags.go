package config

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// The limits of the operator's tags. EC2 and ECS accept 50 tags on a resource, and the
// service has up to three of its own. Source of the lengths, the characters and the
// reserved prefix: the type Tag in the API references of EC2 and ECS. Of the letters that
// they accept, only those of ASCII are accepted here, so that a character is a byte of
// the 4 KB that a parameter of Parameter Store has.
const (
	maxTags     = 40
	maxTagKey   = 128
	maxTagValue = 256
)

var tagCharacters = regexp.MustCompile(`^[A-Za-z0-9 _.:/=+@-]*$`)

// ParseTags reads tags of the form Key=Value,Key=Value. The first = of a tag ends its key.
// An empty text has no tags. The errors are all problems of the text.
func ParseTags(text string) (tags []bastion.Tag, wrong []error) {
	if text == "" {
		return nil, nil
	}
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	keys := map[string]bool{}
	for item := range strings.SplitSeq(text, ",") {
		key, value, found := strings.Cut(item, "=")
		if !found || key == "" {
			refuse(true, "%q is not a tag: want Key=Value", item)
			continue
		}
		refuse(!tagCharacters.MatchString(item), "the tag %q has a character that AWS or this service does not accept: use letters and digits of ASCII, spaces and _.:/=+-@", item)
		refuse(key != strings.TrimSpace(key) || value != strings.TrimSpace(value), "the tag %q has a key or a value that begins or ends with a space: remove the space", item)
		refuse(len(key) > maxTagKey, "the key %q has %d characters: use at most %d", key, len(key), maxTagKey)
		refuse(len(value) > maxTagValue, "the value of the tag %s has %d characters: use at most %d", key, len(value), maxTagValue)
		refuse(hasPrefixFold(key, "aws:") || hasPrefixFold(value, "aws:"), "the tag %q has the prefix aws:, which AWS reserves: use another key or value", item)
		refuse(hasPrefixFold(key, "bastion:"), "the key %q has the prefix bastion:, by which the service finds what it has created: use another key", key)
		refuse(keys[key], "there are two tags with the key %s: keep one", key)
		keys[key] = true
		tags = append(tags, bastion.Tag{Key: key, Value: value})
	}
	refuse(len(tags) > maxTags, "there are %d tags: use at most %d", len(tags), maxTags)
	return tags, wrong
}

func hasPrefixFold(text, prefix string) bool {
	return len(text) >= len(prefix) && strings.EqualFold(text[:len(prefix)], prefix)
}
