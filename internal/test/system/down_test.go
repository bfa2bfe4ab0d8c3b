//go:build conformance

package system

import (
	"net/http"
	"strings"
	"testing"
)

// Whoever asks while the functions are down is told so: at once if nothing could be
// handed over, and otherwise in the place of the first answer.
func TestAPersonIsToldThatTheFunctionsAreDown(t *testing.T) {
	o := openOffice(t, compile(t, "./functions/slack"))
	dave := &member{person: person{w: &world{slack: o.slack}, from: "127.0.0.1"}, id: "UDAVE"}
	dave.newKey(t)
	o.are(down)
	if said, _ := o.slack.command(t, dave.id, "key "+dave.readKey(t)); !strings.Contains(said.text, "Key saved") {
		t.Errorf("key was answered\n%s", said.text) // it takes none of them
	}
	for _, command := range []string{"status", "extend 30m", "down"} {
		if said, _ := o.slack.command(t, dave.id, command); !strings.Contains(said.text, "The bastion service isn't responding") {
			t.Errorf("%s, with nothing to hand it to, was answered\n%s", command, said.text)
		}
	}
	at := o.slack.press(t, dave.id, pressable{ID: "extend", Value: ids["reaper"]})
	if said := o.slack.shown(at, ""); !strings.Contains(said.text, "The bastion service isn't responding") || said.Replaces {
		t.Errorf("a button, with nothing to hand it to, was answered %+v", said)
	}
	said, place := o.slack.command(t, dave.id, "up")
	dave.link = said.button(t, "open").URL // a link takes none of them either
	if status, page := dave.pressStart(t); status != http.StatusServiceUnavailable || !strings.Contains(page, "nothing was started") {
		t.Errorf("the page answered %d\n%s", status, page)
	}
	o.are(failing)
	for _, command := range []string{"status", "extend 30m", "down"} {
		said, at := o.slack.command(t, dave.id, command)
		if !strings.Contains(said.text, "...") {
			t.Errorf("%s was answered\n%s", command, said.text)
		}
		o.slack.shows(t, at, "The bastion service isn't responding")
	}
	if status, page := dave.pressStart(t); status != http.StatusSeeOther {
		t.Fatalf("the page answered %d\n%s", status, page)
	}
	o.slack.shows(t, place, "The bastion service isn't responding")
	if _, page, _ := dave.browse(t, dave.view); !strings.Contains(page, "Bastion not started") {
		t.Errorf("the page says\n%s", page)
	}
}
