package cloudtest

import (
	"fmt"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// epoch is the creation time of the suites' records. Its nanoseconds must be stored.
var epoch = time.Date(2030, 1, 2, 3, 4, 5, 678900001, time.UTC)

var lastID atomic.Int64

// Unsupported names the cases of a suite that an emulator cannot pass, and why. They
// run against another implementation.
type Unsupported struct {
	Emulator string
	Cases    map[string]string
}

// supports reports whether to run a case, and logs why if not.
func (u Unsupported) supports(t *testing.T, name string) bool {
	t.Helper()
	why, unsupported := u.Cases[name]
	if unsupported {
		t.Logf("%s does not support this case: %s", u.Emulator, why)
	}
	return !unsupported
}

// check fails the test if a name is not the name of a case.
func (u Unsupported) check(t *testing.T, names map[string]bool) {
	for name := range u.Cases {
		if !names[name] {
			t.Errorf("the list of cases that %s does not support has %q, which is not a case", u.Emulator, name)
		}
	}
}

// newID returns an ID that is unique in this run.
func newID() string {
	n := lastID.Add(1)
	id := []byte("aaaaaaaaaaaaaaaa")
	for i := len(id) - 1; n > 0; i, n = i-1, n/26 {
		id[i] = byte('a' + n%26)
	}
	return string(id)
}

// eventually repeats check until it returns nil or the patience is over.
func eventually(t *testing.T, patience time.Duration, check func() error) {
	t.Helper()
	giveUp := time.Now().Add(patience)
	pause := time.NewTicker(min(max(patience/200, time.Millisecond), 50*time.Millisecond))
	defer pause.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(giveUp) {
			t.Fatalf("after %s: %v", patience, err)
		}
		<-pause.C
	}
}

// together calls f n times concurrently, and waits.
func together(n int, f func(i int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	all.Wait()
}

// noError ends the test if there is an error.
func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same compares all fields of a value that was read with those of one that was
// written.
func same[T any](t *testing.T, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v\nwant\n%+v", got, want)
	}
}

// allSet fails the test if a field of the value is zero, except those named. So a field
// that is added to a type must be added to the test's value too.
func allSet(t *testing.T, value any, except ...string) {
	t.Helper()
	excepted := map[string]bool{}
	for _, name := range except {
		excepted[name] = true
	}
	for _, name := range zeroFields(reflect.ValueOf(value), "") {
		if !excepted[name] {
			t.Errorf("the test's %T has no value for %s", value, name)
		}
	}
}

func zeroFields(v reflect.Value, path string) []string {
	switch v.Interface().(type) {
	case time.Time, netip.Prefix, netip.AddrPort, netip.Addr:
	default:
		switch v.Kind() {
		case reflect.Struct:
			var zero []string
			for i := range v.NumField() {
				name := v.Type().Field(i).Name
				if path != "" {
					name = path + "." + name
				}
				zero = append(zero, zeroFields(v.Field(i), name)...)
			}
			return zero
		case reflect.Slice:
			if v.Len() > 0 {
				return zeroFields(v.Index(0), path+"[0]")
			}
		}
	}
	if v.IsZero() {
		return []string{path}
	}
	return nil
}

// texts are strings that a wrong encoding would change.
var texts = []string{
	"plain", "Zoë’s ☃ 日本", "a\"b\\c", "tab\tand line\nbreak", "#", "a#b:c/d|e", fmt.Sprint("\u2028", "\U0001F511"),
}
