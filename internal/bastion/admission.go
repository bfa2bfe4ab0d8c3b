package bastion

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Limits of one bastion.
const (
	MaxKeys          = 5  // keys of one bastion
	MaxSourcesPerKey = 5  // sources of one key
	MaxSources       = 10 // different sources of all keys together; each is a rule of the group
)

// Admission is one key of a bastion with its sources. The SSH server admits the key from
// these sources only.
type Admission struct {
	Key     Key
	Sources []netip.Prefix // masked, without duplicates
	Named   bool           // see KeySources
}

// KeySources has the sources of one key in the form in which intents and leases store
// them.
type KeySources struct {
	Prefixes []netip.Prefix `json:"prefixes"`
	// Named is true if a request named the sources. A later request without sources then
	// keeps them. It is false if the only source is the caller's address.
	Named bool `json:"named,omitempty"`
}

// Admissions returns the keys with their sources, in the order in which the keys were
// added.
func (i Intent) Admissions() []Admission { return admissions(i.Keys, i.KeySources, i.Source) }

// Admissions returns the keys with their sources.
func (l Lease) Admissions() []Admission { return admissions(l.Keys, l.KeySources, l.Source) }

// admissions combines keys with their sources. Earlier versions store one source for all
// keys, and remove the field with the sources when they write a record. Without this
// field, every key has the one source.
func admissions(keys []Key, sources []KeySources, source netip.Prefix) []Admission {
	var all []Admission
	for i, key := range keys {
		if len(sources) == len(keys) {
			all = append(all, Admission{key, sources[i].Prefixes, sources[i].Named})
		} else if source.IsValid() {
			all = append(all, Admission{Key: key, Sources: []netip.Prefix{source}})
		}
	}
	return all
}

// admit replaces the keys and their sources. The parameter source is the first source of
// the latest request.
func (i *Intent) admit(all []Admission, source netip.Prefix) {
	i.Source, i.Keys, i.KeySources = source, nil, nil
	for _, a := range all {
		i.Keys = append(i.Keys, a.Key)
		i.KeySources = append(i.KeySources, KeySources{a.Sources, a.Named})
	}
}

// Sources returns the sources of all keys, sorted and without duplicates: the sources
// that the group must admit.
func (i Intent) Sources() []netip.Prefix { return sourcesOf(i.Admissions()) }

func sourcesOf(all []Admission) []netip.Prefix {
	sources := []netip.Prefix{}
	for _, a := range all {
		sources = append(sources, a.Sources...)
	}
	return sortedSources(sources)
}

// readmit changes the keys and their sources to those after a request that was checked. It
// reports whether anything changed, and returns the key that was added, if any. A key has
// the sources of the last request with this key.
// *Error: CodeKeyRequired, CodeTooManyKeys, CodeTooManySources. Then nothing has changed.
func (i *Intent) readmit(req CreateRequest) (added Key, changed bool, err error) {
	before := i.Admissions()
	all, source, err := admissionsAfter(before, req)
	if err != nil {
		return "", false, err
	}
	changed = i.Source != source || !slices.EqualFunc(before, all, Admission.equal)
	for _, a := range all {
		if indexOfKey(before, a.Key) < 0 {
			added = a.Key
		}
	}
	i.admit(all, source)
	return added, changed, nil
}

func (a Admission) equal(b Admission) bool {
	return a.Key == b.Key && a.Named == b.Named && slices.Equal(a.Sources, b.Sources)
}

func indexOfKey(all []Admission, key Key) int {
	return slices.IndexFunc(all, func(a Admission) bool { return a.Key == key })
}

// admissionsAfter returns the admissions after a request, and the first source of the
// request. If an admitted prefix contains this source, it is that prefix.
func admissionsAfter(before []Admission, req CreateRequest) (all []Admission, source netip.Prefix, err error) {
	key := req.Key
	switch {
	case key != "":
	case len(before) == 1:
		key = before[0].Key
	default:
		for _, a := range before {
			if a.admits(req.wanted()...) {
				return before, a.covering(req.wanted()[0]), nil
			}
		}
		return nil, source, Errorf(CodeKeyRequired, "This bastion admits %d keys (%s), none of them from %s. Send the public key that you connect with.",
			len(before), fingerprints(before), listAll(req.wanted()))
	}
	changed := Admission{Key: key}
	at := indexOfKey(before, key)
	if at >= 0 {
		changed = before[at]
	}
	if err := changed.setSources(req); err != nil {
		return nil, source, err
	}
	switch all = slices.Clone(before); {
	case req.OnlyKey:
		all = []Admission{changed}
	case at >= 0:
		all[at] = changed
	default:
		all = append(all, changed)
	}
	if len(all) > MaxKeys {
		return nil, source, Errorf(CodeTooManyKeys, "This bastion admits %d keys already, which is the maximum: %s. Connect with one of them, or repeat the request with \"only_key\": true, which makes your key the only one and disconnects the others.",
			len(before), fingerprints(before))
	}
	if sources := sourcesOf(all); len(sources) > MaxSources {
		return nil, source, Errorf(CodeTooManySources, "This bastion would admit %d different sources, and the maximum is %d: %s. Name fewer in \"source\", or repeat the request with \"only_key\": true, which removes the other keys and their sources.",
			len(sources), MaxSources, SourceList(sources))
	}
	return all, changed.covering(req.wanted()[0]), nil
}

// setSources changes the sources of one key to those after a request. A request that names
// no source replaces the caller's earlier address, but keeps named sources and adds the
// caller's address to them.
func (a *Admission) setSources(req CreateRequest) error {
	switch {
	case len(req.Sources) > 0:
		a.Sources, a.Named = req.Sources, true
	case !a.Named:
		a.Sources = []netip.Prefix{req.from}
	case a.admits(req.from):
	case len(a.Sources) >= MaxSourcesPerKey:
		return Errorf(CodeTooManySources, "Your address %s is none of the %d sources that were named for the key %s (%s), and a key can have no more. Name the sources that you need in \"source\".",
			req.from.Addr(), len(a.Sources), a.Key.Fingerprint(), SourceList(a.Sources))
	default:
		a.Sources = append(slices.Clip(a.Sources), req.from)
	}
	return nil
}

// admits reports whether the key is admitted from all addresses of the prefixes.
func (a Admission) admits(prefixes ...netip.Prefix) bool {
	for _, p := range prefixes {
		if !a.covering(p).IsValid() {
			return false
		}
	}
	return true
}

// covering returns the first source of the key that contains the prefix. It is zero if
// there is none.
func (a Admission) covering(p netip.Prefix) netip.Prefix {
	for _, source := range a.Sources {
		if contains(source, p) {
			return source
		}
	}
	return netip.Prefix{}
}

// contains reports whether the outer prefix contains all addresses of the inner one.
func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func fingerprints(all []Admission) string {
	var texts []string
	for _, a := range all {
		texts = append(texts, a.Key.Fingerprint())
	}
	return strings.Join(texts, ", ")
}

// SourceList returns the sources as people write them, separated by commas, such as
// "203.0.113.7, 198.51.100.0/28". For no source, it returns "no address".
func SourceList(sources []netip.Prefix) string {
	if len(sources) == 0 {
		return "no address"
	}
	var texts []string
	for _, source := range sources {
		texts = append(texts, SourceText(source))
	}
	return strings.Join(texts, ", ")
}

// listAll returns the sources as text, which says of several that all are meant together.
func listAll(sources []netip.Prefix) string {
	if len(sources) == 1 {
		return SourceList(sources)
	}
	return "all of " + SourceList(sources)
}

// SourceText returns a source as people write it: an address, or a prefix.
func SourceText(source netip.Prefix) string {
	if source.IsSingleIP() {
		return source.Addr().String()
	}
	return source.String()
}

// sortedSources sorts the prefixes and removes duplicates, so that two sets can be
// compared with slices.Equal. It changes the slice.
func sortedSources(sources []netip.Prefix) []netip.Prefix {
	slices.SortFunc(sources, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(sources)
}
