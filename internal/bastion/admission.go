package bastion

import (
	"cmp"
	"net/netip"
	"slices"
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
func (i Intent) Sources() []netip.Prefix {
	sources := []netip.Prefix{}
	for _, a := range i.Admissions() {
		sources = append(sources, a.Sources...)
	}
	return sortedSources(sources)
}

// sortedSources sorts the prefixes and removes duplicates, so that two sets can be
// compared with slices.Equal. It changes the slice.
func sortedSources(sources []netip.Prefix) []netip.Prefix {
	slices.SortFunc(sources, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(sources)
}
