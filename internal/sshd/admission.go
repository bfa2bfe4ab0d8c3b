package sshd

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/bastion-on-demand/bastion/internal/bastion"
)

// keySet has the admitted keys by their wire form. It is never changed.
type keySet map[string]admittedKey

// admittedKey is a key with the addresses that it is admitted from.
type admittedKey struct {
	place       int // in the lease
	fingerprint string
	sources     []netip.Prefix
}

var errKeyRemoved = errors.New("the key was removed from the bastion")

// elsewhereError is the refusal of a key that is admitted, but not from the client's
// address.
type elsewhereError struct {
	admittedKey
	from netip.Addr
}

func (e *elsewhereError) Error() string {
	return fmt.Sprintf("key %s is not admitted from %s, only from %s", e.fingerprint, e.from, bastion.SourceList(e.sources))
}

// parseKeys parses the keys of a lease. It leaves out keys that cannot be parsed. For each
// of them, the error has the fingerprint, or, if there is none, the text of the key.
func parseKeys(admissions []bastion.Admission) (keySet, error) {
	set, problems := keySet{}, []error(nil)
	for place, a := range admissions {
		_, b64, _ := strings.Cut(string(a.Key), " ")
		blob, err := base64.StdEncoding.DecodeString(b64)
		if err == nil {
			_, err = ssh.ParsePublicKey(blob)
		}
		if err != nil {
			name := cmp.Or(a.Key.Fingerprint(), strconv.Quote(clip(string(a.Key))))
			problems = append(problems, fmt.Errorf("parse key %s: %w", name, err))
			continue
		}
		set[string(blob)] = admittedKey{place, a.Key.Fingerprint(), a.Sources}
	}
	return set, errors.Join(problems...)
}

// check returns nil if the key is admitted from the address, and else errKeyRemoved or an
// *elsewhereError.
func (k keySet) check(key string, from netip.Addr) error {
	admitted, ok := k[key]
	switch {
	case !ok:
		return errKeyRemoved
	case !admitted.admits(from):
		return &elsewhereError{admitted, from}
	}
	return nil
}

func (a admittedKey) admits(from netip.Addr) bool {
	return slices.ContainsFunc(a.sources, func(p netip.Prefix) bool { return p.Contains(from) })
}

// ordered returns the keys in the order of the lease.
func (k keySet) ordered() []admittedKey {
	var all []admittedKey
	for _, key := range k {
		all = append(all, key)
	}
	slices.SortFunc(all, func(a, b admittedKey) int { return cmp.Compare(a.place, b.place) })
	return all
}

// accepted returns the fingerprints of the keys that are admitted from the address, for a
// sentence. It does not name the other keys, because the client has proved nothing.
func (k keySet) accepted(from netip.Addr) string {
	var all []string
	for _, key := range k.ordered() {
		if key.admits(from) {
			all = append(all, key.fingerprint)
		}
	}
	if len(all) == 0 {
		return fmt.Sprintf("no key from your address %s", from)
	}
	return "the key " + strings.Join(all, " or ")
}

// changes returns what consoles print when next replaces the set.
func (k keySet) changes(next keySet) []string {
	var notices []string
	for _, key := range next.ordered() {
		before, known := k.find(key.fingerprint)
		switch {
		case !known:
			notices = append(notices, fmt.Sprintf("The key %s was added. It is accepted from %s.", key.fingerprint, bastion.SourceList(key.sources)))
		case !slices.Equal(before.sources, key.sources):
			notices = append(notices, fmt.Sprintf("The key %s is now accepted from %s. Open connections stay open.", key.fingerprint, bastion.SourceList(key.sources)))
		}
	}
	for _, key := range k.ordered() {
		if _, kept := next.find(key.fingerprint); !kept {
			notices = append(notices, fmt.Sprintf("The key %s was removed, and its connections were closed.", key.fingerprint))
		}
	}
	return notices
}

func (k keySet) find(fingerprint string) (admittedKey, bool) {
	for _, key := range k {
		if key.fingerprint == fingerprint {
			return key, true
		}
	}
	return admittedKey{}, false
}
