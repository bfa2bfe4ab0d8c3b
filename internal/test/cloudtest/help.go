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

// epoch is when the suites' records were made: with nanoseconds, which must
// survive.
var epoch = time.Date(2030, 1, 2, 3, 4, 5, 678900001, time.UTC)

var made atomic.Int64

// Cannot says which cases of a suite an emulator cannot show, by name, and why.
// They run against an implementation that can.
type Cannot struct {
	Emulator string
	Cases    map[string]string
}

// can reports whether a case is to run, and logs why if it is not.
func (c Cannot) can(t *testing.T, name string) bool {
	t.Helper()
	why, cannot := c.Cases[name]
	if cannot {
		t.Logf("%s cannot: %s: %s (run at the wire fake)", c.Emulator, name, why)
	}
	return !cannot
}

// check fails the test if a case is named that there is not.
func (c Cannot) check(t *testing.T, names map[string]bool) {
	for name := range c.Cases {
		if !names[name] {
			t.Errorf("there is no case %q, which %s cannot show", name, c.Emulator)
		}
	}
}

// newID makes an id that no other record of this run has.
func newID() string {
	n := made.Add(1)
	id := []byte("aaaaaaaaaaaaaaaa")
	for i := len(id) - 1; n > 0; i, n = i-1, n/26 {
		id[i] = byte('a' + n%26)
	}
	return string(id)
}

// eventually looks until check is content, for as long as the harness is patient.
func eventually(t *testing.T, patience time.Duration, check func() error) {
	t.Helper()
	giveUp := time.Now().Add(patience)
	pause := time.NewTicker(max(patience/200, time.Millisecond))
	defer pause.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(giveUp) {
			t.Fatalf("not within %s: %v", patience, err)
		}
		<-pause.C
	}
}

// together calls f n times at once, and waits.
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

// noError ends the test at an error.
func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// same compares what came back with what was written, to the last field.
func same[T any](t *testing.T, got, want T) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("came back as\n%+v, not as\n%+v", got, want)
	}
}

// allSet fails the test if a field of the value is zero, so that a field that is
// added to a type is tested to survive from that day on. Fields named are let off.
func allSet(t *testing.T, value any, except ...string) {
	t.Helper()
	off := map[string]bool{}
	for _, name := range except {
		off[name] = true
	}
	for _, name := range zeroFields(reflect.ValueOf(value), "") {
		if !off[name] {
			t.Errorf("the suite's full %T leaves %s zero", value, name)
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

// texts are strings that a careless encoding would not bring back.
var texts = []string{
	"plain", "Zoë’s ☃ 日本", "a\"b\\c", "tab\tand line\nbreak", "#", "a#b:c/d|e", fmt.Sprint("\u2028", "\U0001F511"),
}
