package config

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// prefix starts the names of the variables of all functions except Slack's, and
// slackPrefix those of the Slack function.
const (
	prefix      = "BASTION_"
	slackPrefix = "SLACK_"
)

// reader reads variables one by one, and collects everything that is wrong with them.
type reader struct {
	prefix string
	values map[string]string // by name without the prefix, until they are read
	stored map[string]string // values in Parameter Store, by the variable that names the parameter
	wrong  []error
}

func newReader(prefix string, environ []string) *reader {
	r := &reader{prefix: prefix, values: map[string]string{}}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if ours, ok := strings.CutPrefix(name, prefix); ok {
			r.values[ours] = value
		}
	}
	return r
}

func (r *reader) refuse(name, value, want string) {
	r.wrong = append(r.wrong, fmt.Errorf("%s%s is %q: want %s", r.prefix, name, value, want))
}

// refuseAll adds everything that is wrong with a value.
func (r *reader) refuseAll(name string, wrong []error) {
	for _, err := range wrong {
		r.wrong = append(r.wrong, fmt.Errorf("%s%s: %w", r.prefix, name, err))
	}
}

// take returns the value of a variable. Every variable must be set, even to an empty
// value, so that a variable that template.yaml forgets is an error and not a default.
func (r *reader) take(name string) (string, bool) {
	value, ok := r.values[name]
	if !ok {
		r.wrong = append(r.wrong, fmt.Errorf("%s%s is missing", r.prefix, name))
	}
	delete(r.values, name)
	return strings.TrimSpace(value), ok
}

func (r *reader) text(name string, f Form) string {
	value, ok := r.take(name)
	if ok && !f.Match(value) {
		r.refuse(name, value, f.Want)
	}
	return value
}

func (r *reader) optional(name string, f Form) string {
	value, ok := r.take(name)
	if ok && value != "" && !f.Match(value) {
		r.refuse(name, value, f.Want+", or an empty value")
	}
	return value
}

// list reads values that are separated by commas. An empty value is an empty list.
func (r *reader) list(name string, f Form) (items []string) {
	value, ok := r.take(name)
	if !ok || value == "" {
		return nil
	}
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		switch {
		case !f.Match(item):
			r.refuse(name, item, f.Want)
		case slices.Contains(items, item):
			r.wrong = append(r.wrong, fmt.Errorf("%s%s has %s twice", r.prefix, name, item))
		}
		items = append(items, item)
	}
	return items
}

// sources reads prefixes that are separated by commas.
func (r *reader) sources(name string) []netip.Prefix {
	value, _ := r.take(name)
	sources, wrong := ParseSources(value)
	r.refuseAll(name, wrong)
	return sources
}

// ReadParameters returns the values of String parameters of Parameter Store by their names,
// without those that do not exist.
type ReadParameters func(names ...string) (map[string]string, error)

// fetch reads the parameters that these variables name, in one call. A variable is empty
// if the function does not use the setting.
func (r *reader) fetch(read ReadParameters, variables ...string) {
	r.stored = map[string]string{}
	var names []string
	for _, variable := range variables {
		if name := r.optional(variable, parameterName); name != "" && parameterName.Match(name) {
			names = append(names, name)
			r.stored[variable] = name
		}
	}
	if len(names) == 0 {
		return
	}
	values, err := read(names...)
	if err != nil {
		r.wrong = append(r.wrong, err)
	}
	for variable, name := range r.stored {
		value, ok := values[name]
		if !ok && err == nil {
			r.wrong = append(r.wrong, fmt.Errorf("%s%s is %q, and Parameter Store has no parameter of this name", r.prefix, variable, name))
		}
		r.stored[variable] = strings.TrimSpace(value)
	}
}

// tags reads the operator's tags from a parameter that fetch has read.
func (r *reader) tags(name string) []bastion.Tag {
	tags, wrong := ParseTags(r.stored[name])
	r.refuseAll(name, wrong)
	return tags
}

// destinations reads rules that are separated by commas from a parameter that fetch has
// read.
func (r *reader) destinations(name string) []bastion.DestinationRule {
	rules, wrong := bastion.ParseDestinationRules(r.stored[name])
	if value, named := r.stored[name]; named && value == "" {
		wrong = append(wrong, errors.New("there are no destinations: bastions could connect to nothing"))
	}
	r.refuseAll(name, wrong)
	return rules
}

// duration reads Go's notation.
func (r *reader) duration(name string) time.Duration {
	value, ok := r.take(name)
	d, err := time.ParseDuration(value)
	if ok && err != nil {
		r.refuse(name, value, "a duration, such as 30m, 8h or 1h30m")
	}
	return d
}

func (r *reader) number(name string) int {
	value, ok := r.take(name)
	n, err := strconv.Atoi(value)
	if ok && err != nil {
		r.refuse(name, value, "a whole number")
	}
	return n
}

// port reads the port that bastiond listens on. bastiond does not run as root. The task
// definition lets it listen below 1024 for two ports only, which most networks admit.
func (r *reader) port(name string) uint16 {
	value, ok := r.take(name)
	n, err := strconv.ParseUint(value, 10, 16)
	if ok && (err != nil || n < 1024 && n != 22 && n != 443) {
		r.refuse(name, value, "22, 443 or a port from 1024 to 65535")
	}
	return uint16(n)
}

func (r *reader) flag(name string) bool {
	value, ok := r.take(name)
	if ok && value != "true" && value != "false" {
		r.refuse(name, value, "true or false")
	}
	return value == "true"
}

// families reads the address families of bastions.
func (r *reader) families(name string) (v4, v6 bool) {
	value, ok := r.take(name)
	switch {
	case value == "ipv4":
		return true, false
	case value == "ipv6":
		return false, true
	case value == "dualstack":
		return true, true
	case ok:
		r.refuse(name, value, "ipv4, ipv6 or dualstack")
	}
	return false, false
}

// unknown refuses variables that were not read. Their values are not in the error:
// they may be secrets.
func (r *reader) unknown() {
	for _, name := range slices.Sorted(maps.Keys(r.values)) {
		r.wrong = append(r.wrong, fmt.Errorf("%s%s is not a setting: remove it, or correct its name", r.prefix, name))
	}
}
